"""Golden answers: what each engine gave on the build host for a few real inputs, and whether it still does here."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from runtime.bundle import Bundle, Golden
from runtime.engines import Session, relative_error
from runtime.errors import BundleError, EngineError
from runtime.tensors import Array, check_feeds

LEAST = 1e-3  # of a tolerance: another processor sums in another order
ROOM = 3.0  # a right answer may be so many times as far off as the build host's was from its own ONNX file


def tolerance(error: float) -> float:
    """What an engine may be off elsewhere that was off by `error`, relative, from its own file where it was built."""
    return min(0.9, max(LEAST, ROOM * error))


def inputs(bundle: Bundle) -> dict[str, Array]:
    """The golden inputs by name; empty where the bundle has none.

    Raises:
        BundleError: they are no arrays, or not what the model takes.
    """
    found = _arrays(bundle, bundle.golden)
    if found:
        check_feeds(bundle.specs.inputs, found)
    return found


def check(bundle: Bundle, golden: Golden | None, session: Session) -> float | None:
    """Run the golden inputs; returns the largest relative error, None where the bundle has no golden answers.

    Raises:
        EngineError: an output is further off than this engine's tolerance; it is named, with the difference.
        BundleError: the golden files are damaged.
    """
    feeds = inputs(bundle)
    if golden is None or not feeds:
        return None
    wanted, got = _arrays(bundle, golden.outputs), session.run(feeds)
    if missing := sorted(set(wanted) - set(got)):
        raise BundleError(f"{bundle.path}: there are golden answers for {missing[0]!r}, which the model does not give.")
    error, name = relative_error(got, wanted, bundle.specs.decoding)
    if not error <= golden.tolerance:
        how = f"{error:.2g} (relative)" if np.isfinite(error) else "NaN, infinity or another shape"
        raise EngineError(
            f"it answers otherwise here than where it was built: its output '{name}' differs by {how}, "
            f"allowed are {golden.tolerance:.2g}"
        )
    return error


def save(folder: Path, arrays: Mapping[str, Array]) -> dict[str, str]:
    """Write arrays as .npy files into a folder; name to path. Names of tensors need not be names of files."""
    folder.mkdir(parents=True)
    paths = {name: folder / f"{index}.npy" for index, name in enumerate(arrays)}
    for name, path in paths.items():
        np.save(path, arrays[name], allow_pickle=False)
    return {name: str(path) for name, path in paths.items()}


def _arrays(bundle: Bundle, files: Mapping[str, str]) -> dict[str, Array]:
    try:
        # mapped, so that a header that lies about the size is refused before memory is taken for it
        mapped = {name: np.lib.format.open_memmap(bundle.path / file, mode="r") for name, file in files.items()}
        return {name: np.array(value) for name, value in mapped.items()}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, SyntaxError) as error:
        raise BundleError(f"{bundle.path}: its golden arrays cannot be read: {error}") from error
