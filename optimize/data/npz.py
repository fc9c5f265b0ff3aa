"""An .npz file: x and y, or one array for each input by name.

Splits are told by suffixes (`x_calibrate`, `y_calibrate`, `x_validate`, ...); without any there is one split, which
is divided.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np

from optimize.data import NAMES, Splits, from_arrays
from runtime.errors import InputError
from runtime.tensors import Array


def claims(place: str) -> bool:
    """A path that ends in .npz."""
    return place.endswith(".npz")


def load(place: str) -> Splits:
    """Read the arrays; nothing is unpickled."""
    path = Path(place)
    if not path.is_file():
        raise InputError(f"no such file: {path} (the data).")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be read as .npz: {error}") from error
    except Exception as error:  # zipfile.BadZipFile, zlib.error
        raise InputError(f"{path} is damaged: {error}") from error
    splits: dict[str, dict[str, Array]] = defaultdict(dict)
    for key, value in arrays.items():
        name, _, suffix = key.rpartition("_")
        split = suffix if suffix in NAMES and name else ""
        splits[split][name if split else key] = value
    if not splits:
        raise InputError(f"{path} holds no arrays.")
    if "" in splits and len(splits) > 1:
        raise InputError(
            f"{path}: the keys {sorted(splits[''])} name no split while others do; "
            f"end each in one of {', '.join('_' + name for name in NAMES)}, or none."
        )
    return from_arrays(splits, str(path))
