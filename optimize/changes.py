"""What differs between two nested tables: recipes, versions, machines."""

from collections.abc import Mapping
from typing import Any


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """The leaves of nested tables and lists, by their place: `steps.0.samples`."""
    if not isinstance(value, (Mapping, list, tuple)) or not value:
        return {place: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    return {key: leaf for name, one in items for key, leaf in flat(one, f"{place}.{name}".lstrip(".")).items()}


def changed(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Place to what stands there in each; an empty list, an empty table and nothing are alike."""
    before, after = flat(old), flat(new)
    found = {place: (before.get(place), after.get(place)) for place in {**before, **after}}
    empty: tuple[Any, ...] = (None, [], (), {})
    return {key: (was, now) for key, (was, now) in found.items() if was != now and not (was in empty and now in empty)}
