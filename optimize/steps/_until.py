"""The goal `1.5x faster on openvino`, which only a run can reach, since no step runs an engine (`optimize.until`)."""

import re
from collections.abc import Collection
from typing import Any, ClassVar

from optimize.steps import Settings
from runtime import listing
from runtime.errors import InputError

SAID = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)x faster on (\w+)")


class Until(Settings):
    """Settings of a step that may have such a goal.

    Attributes:
        finds: the setting that says what the goal comes to; where it is not given, the run finds it.
        until: how many times faster the target's engine is to be, measured in float before any training.
    """

    finds: ClassVar[str]
    until: str | None = None

    def sought(self) -> tuple[float, str]:
        """What `until` says: how many times faster, on which target; raises ValueError where it says nothing."""
        found = SAID.fullmatch(" ".join((self.until or "").split()))
        if not found or float(found[1]) <= 1:
            raise ValueError(f'until = "1.5x faster on openvino", say, with more than 1x; got "{self.until}"')
        return float(found[1]), found[2]

    @property
    def found(self) -> Any:
        """What the goal comes to; None where that is still to be found."""
        return getattr(self, self.finds)

    @property
    def pending(self) -> bool:
        """Its goal is one that is still to be found."""
        return self.until is not None and self.found is None

    def check_targets(self, names: Collection[str]) -> None:
        """The target of `until` must be one of the recipe's."""
        if self.until and self.sought()[1] not in names:
            raise InputError(f'until = "{self.until}": {listing.unknown("target", self.sought()[1], names)}')
