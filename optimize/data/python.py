"""A user's callable, `data.py:splits`, that returns the splits.

It returns a dict with `calibrate`, `validate` and `test`, or one split, which is divided. A split is (x, y), x alone,
a dict of arrays by input name with the labels at "y"; or, to stream, a callable or an iterable that begins anew each
time (a torch DataLoader, say) and gives such batches.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from optimize.data import NAMES, Batch, Splits, from_arrays, to_batch
from optimize.usercode import load_callable
from runtime.errors import InputError


def claims(place: str) -> bool:
    """`file.py:callable`."""
    return ".py:" in place


def load(place: str) -> Splits:
    """Call it; arrays are held, streams are begun anew for each pass."""
    function = load_callable(place, "data")
    try:
        found = function()
    except Exception as error:
        raise InputError(f"{place} raised {type(error).__name__}: {error}") from error
    if isinstance(found, Mapping) and set(found) & set(NAMES):
        if lacking := [name for name in NAMES if name not in found]:
            raise InputError(f"{place} returned the splits {sorted(found)}; {', '.join(lacking)} missing.")
        found = {name: found[name] for name in NAMES}
    else:
        found = {"": found}
    if any(_streams(split) for split in found.values()):
        if "" in found:
            raise InputError(
                f"{place} returned one stream; a stream cannot be divided. Return a dict with {', '.join(NAMES)}."
            )
        return Splits.of({name: _passes(split, f"{place}, split '{name}'") for name, split in found.items()})
    arrays = {}
    for name, split in found.items():
        feeds, labels = to_batch(split, f"{place}, split '{name or 'the data'}'")
        arrays[name] = feeds if labels is None else {**feeds, "y": labels}
    return from_arrays(arrays, place)


def _streams(split: Any) -> bool:
    if isinstance(split, (tuple, list)):  # (x, y) holds arrays; a list of batches streams
        return not (
            len(split) == 2
            and hasattr(split[1], "__array__")
            and (isinstance(split[0], Mapping) or hasattr(split[0], "__array__"))
        )
    return not isinstance(split, Mapping) and not isinstance(split, np.ndarray) and not hasattr(split, "__array__")


def _passes(split: Any, where: str) -> Callable[[], Iterator[Batch]]:
    if hasattr(split, "__next__"):
        raise InputError(f"{where} is an iterator, which ends after one pass; return the function that makes it.")
    if isinstance(split, str) or not (callable(split) or hasattr(split, "__iter__")):
        raise InputError(f"{where} is a {type(split).__name__}; it is arrays, an iterable of batches, or a callable.")

    def passes() -> Iterator[Batch]:
        try:
            for item in split() if callable(split) else split:
                yield to_batch(item, where)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{where} raised {type(error).__name__}: {error}") from error

    return passes
