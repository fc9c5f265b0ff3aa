"""Is the data that ranges are taken from of the same kind as the data that a model is judged on?

What cannot be right is refused before any work; what is odd is said in the report.
"""

from collections.abc import Mapping

import numpy as np

from optimize.data import Facts
from optimize.data._profile import Spread
from runtime.errors import InputError

FEW = 32  # samples
NOISE = 0.1  # correlation of neighbours that have nothing in common
STRUCTURE = 0.3  # and of those that have much
LAID_OUT = 0.3  # by how much it may differ between splits of one layout
SCALED = 8.0  # times the spread
SHIFTED = 1.0  # standard deviations

MEND = "mend the data, or set [data] check = false where it is meant so."


def check(facts: Mapping[str, Facts], few: int = FEW) -> list[str]:
    """Compare calibrate with the other splits; returns what a reader of the report should know.

    Args:
        facts: by split, as `optimize.data.examine` found them.
        few: samples of calibrate, below which they are said to be few.

    Raises:
        InputError: calibrate is constant or noise where validate is not, or its values are of another scale.
    """
    calibrate, validate = facts["calibrate"].profile, facts["validate"].profile
    for name, spread in calibrate.spreads.items():
        if other := validate.spreads.get(name):
            _refuse(name, spread, other)
    notes = _copies(facts)
    if len(calibrate.prints) < few:
        notes.append(
            f"calibrate has {len(calibrate.prints)} sample{'s' if len(calibrate.prints) > 1 else ''}: the ranges of "
            "int8 that so few show may be too narrow; a hundred or more are usual"
        )
    for name, spread in calibrate.spreads.items():
        if other := validate.spreads.get(name):
            notes += _odd(name, spread, other)
    return notes


def _refuse(name: str, here: Spread, there: Spread) -> None:
    if here.low == here.high and there.low < there.high:
        raise InputError(
            f"calibrate is constant: all values of '{name}' are {here.low:g}, those of validate are not. "
            f"Ranges cannot be taken from it; {MEND}"
        )
    related, others = here.related(), there.related()
    if related and others and max(map(abs, related.values())) < NOISE and max(others.values()) > STRUCTURE:
        raise InputError(
            f"calibrate looks random: neighbouring values of '{name}' have nothing in common (correlation "
            f"{max(related.values()):.2f}), in validate they have ({max(others.values()):.2f}). Calibrate on real "
            f"samples; {MEND}"
        )
    if there.deviation and not 1 / SCALED <= here.deviation / there.deviation <= SCALED:
        raise InputError(
            f"calibrate and validate are scaled differently: '{name}' is {_range(here)} in the one and {_range(there)} "
            f"in the other. Give both the same preprocessing; {MEND}"
        )


def _odd(name: str, here: Spread, there: Spread) -> list[str]:
    notes = []
    related, others = here.related(), there.related()
    if any(abs(related[axis] - others[axis]) > LAID_OUT for axis in related.keys() & others.keys()):
        pairs = ", ".join(f"axis {axis}: {related[axis]:.2f} and {others[axis]:.2f}" for axis in related)
        notes.append(
            f"'{name}' seems to be laid out differently in calibrate and in validate (correlation of neighbours along "
            f"{pairs}): was a picture reshaped where it should have been transposed?"
        )
    if there.deviation and abs(here.mean - there.mean) > SHIFTED * there.deviation:
        notes.append(
            f"'{name}' is {_range(here)} in calibrate and {_range(there)} in validate: was it normalized differently?"
        )
    mine, theirs = here.colours(), there.colours()
    if len(mine) == len(theirs) == 3:
        straight, turned = np.abs(mine - theirs).max(), np.abs(mine[::-1] - theirs).max()
        if straight > 0.1 * there.deviation and turned < straight / 4:
            notes.append(f"the colours of '{name}' seem to be in another order in calibrate than in validate")
    return notes


def _copies(facts: Mapping[str, Facts]) -> list[str]:
    """What is in one split more than once, or in two."""
    notes = []
    own = facts["calibrate"].profile.prints
    known = set(own)
    if double := len(own) - len(known):
        notes.append(f"{double} of the {len(own)} samples of calibrate are copies of others in it")
    for split in ("validate", "test"):
        others = facts[split].profile.prints
        if leaked := sum(one in known for one in others):
            share = f"{leaked} of the {len(others)} samples of {split} are in calibrate too"
            notes.append(f"{share}: its figures are not of data that no step has seen")
    return notes


def _range(spread: Spread) -> str:
    return f"from {spread.low:.3g} to {spread.high:.3g} (mean {spread.mean:.3g}, deviation {spread.deviation:.3g})"
