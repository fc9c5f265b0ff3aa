"""A recipe as TOML, to copy: the standard library reads TOML and does not write it."""

import json
from collections.abc import Mapping
from typing import Any

ORDER = ("model", "data", "steps", "targets", "constraints", "measure")


def text(recipe: Mapping[str, Any]) -> str:
    """Write a recipe's table; null has no place in TOML and is the default everywhere, so it is left out."""
    keys = [*(key for key in ORDER if key in recipe), *(key for key in recipe if key not in ORDER)]
    return "\n".join(_table({key: recipe[key] for key in keys}, ())).strip() + "\n"


def _table(table: Mapping[str, Any], place: tuple[str, ...]) -> list[str]:
    """A table's header and own values, then the tables in it; what lies deep, and the axes, stands on one line."""
    plain, below = {}, {}
    for key, value in table.items():
        several = isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, Mapping) for one in value)
        nested = several or isinstance(value, Mapping)
        if nested and len(place) < 3 and place != ("model", "axes"):
            below[key] = value
        elif value is not None:
            plain[key] = value
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    if place and (lines or not below):
        lines = ["", f"[{'.'.join(map(_key, place))}]", *lines]
    for key, value in below.items():
        if isinstance(value, Mapping):
            lines += _table(value, (*place, key))
            continue
        for one in value:
            lines += ["", f"[[{'.'.join(map(_key, (*place, key)))}]]"]
            lines += [f"{_key(name)} = {_value(part)}" for name, part in one.items() if part is not None]
    return lines


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None)
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and value != value:
        return "nan"
    if value in (float("inf"), float("-inf")) and isinstance(value, float):
        return "inf" if value > 0 else "-inf"
    # strings, whole numbers, floats and truth values are written as JSON writes them
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _value(str(key))
