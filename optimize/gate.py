"""The gate of `optimize compare`: expressions like `latency > 5%`, judged by an interval."""

import re
from dataclasses import dataclass
from typing import Literal

from runtime.errors import InputError
from runtime.listing import unknown

RELATIVE = ("latency", "size", "memory", "cold_start")  # shares of the old figure, worse is positive
FIGURES = (*RELATIVE, "accuracy")
Outcome = Literal["passed", "failed", "cannot tell"]

_FORM = re.compile(r"\s*(\w+)\s*([<>])\s*([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(%|pp)?\s*", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Change:
    """From old to new, with its interval: a share of the old figure, or for accuracy new minus old in its unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Condition:
    """What must not be: a figure's change above or below a limit."""

    text: str
    figure: str
    above: bool
    limit: float

    def judge(self, change: Change) -> Outcome:
        """`failed` or `passed` where the whole interval lies on one side of the limit."""
        if self.above:
            return "failed" if change.low > self.limit else "passed" if change.high <= self.limit else "cannot tell"
        return "failed" if change.high < self.limit else "passed" if change.low >= self.limit else "cannot tell"


def parse(text: str) -> Condition:
    """One expression: a figure, `<` or `>`, a number with `%` or `pp` behind it.

    `latency > 5%`: more than 5 % slower. `accuracy < -0.5pp`: more than half a point lost. A bare number is a share
    (0.05), for accuracy a number in the metric's own unit.

    Raises:
        InputError: it is none.
    """
    found = _FORM.fullmatch(text)
    if not found:
        raise InputError(f"--fail-if '{text}': write FIGURE > NUMBER or FIGURE < NUMBER, 'latency > 5%' say.")
    figure, sign, number, unit = found.groups()
    figure = figure.lower()
    if figure not in FIGURES:
        raise InputError(f"--fail-if '{text}': {unknown('figure', figure, FIGURES)}")
    if unit == "pp" and figure in RELATIVE:
        raise InputError(f"--fail-if '{text}': {figure} is compared relatively; write {number}%.")
    if unit == "%" and figure == "accuracy":
        raise InputError(
            f"--fail-if '{text}': accuracy is new minus old; write {number}pp, or a number in its own unit."
        )
    return Condition(text.strip(), figure, sign == ">", float(number) / (100 if unit else 1))
