"""A folder of recordings: a class a folder, or none; `train`, `val` and `test` (or our own names) may lie above.

A recording is read when it is needed, and what becomes of it is `runtime.pre.audio`'s.
"""

from pathlib import Path

from optimize.data import Splits
from optimize.data._folders import holds, splits
from runtime.errors import InputError

ENDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif")
COLUMN = "audio"


def claims(place: str) -> bool:
    """A folder with recordings in it."""
    return holds(place, ENDS)


def load(place: str) -> Splits:
    """The paths of its recordings, with their classes' numbers.

    Raises:
        InputError: no such folder, or no recordings in it.
    """
    root = Path(place)
    if not root.is_dir():
        raise InputError(f"no such folder: {root} (the data).")
    return splits(root, COLUMN, ENDS, "recordings")
