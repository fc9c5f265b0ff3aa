"""A folder that Hugging Face's `datasets` saved to disk (`save_to_disk`), of one split or several.

Its column of labels is `y`, and the names of a ClassLabel are said. Pictures and sounds are a column `image` or `audio`
of their files' bytes or paths, text is text, lists of numbers are arrays.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from optimize.data import NAMES, Splits, from_arrays
from optimize.data._columns import LABELS, array, labelled
from optimize.data._folders import SPLITS, divided, texts
from runtime.engines import library
from runtime.errors import EngineError, InputError
from runtime.tensors import Array

MARKS = ("dataset_dict.json", "dataset_info.json")
RAW = {"Image": "image", "Audio": "audio"}


def claims(place: str) -> bool:
    """A folder with `dataset_dict.json` or `dataset_info.json` in it."""
    return any((Path(place) / mark).is_file() for mark in MARKS)


def load(place: str) -> Splits:
    """Read its columns, by the types that its features name; nothing is asked of a network.

    Raises:
        InputError: it is not there, damaged, or has columns that cannot be used.
    """
    root = Path(place)
    if not claims(place):
        raise InputError(f"{root} is no folder that `save_to_disk` of datasets wrote.")
    try:
        datasets = library("datasets", "datasets")
    except EngineError as error:
        raise InputError(str(error)) from error
    try:
        found = datasets.load_from_disk(str(root))
    except Exception as error:  # whatever a damaged folder brings up
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{root} cannot be read by datasets: {words}") from error
    read = {name: _columns(part, f"{root} ({name})" if name else place) for name, part in _parts(found, root).items()}
    said: dict[str, None] = {}
    arrays: dict[str, dict[str, Array]] = {}
    known = _classes([columns for columns, _ in read.values()])
    for name, (columns, named) in read.items():
        arrays[name], classes, notes = labelled(columns, str(root), named or known)
        said.update(dict.fromkeys(notes))
    made = from_arrays(arrays, place) if "" in arrays else divided(arrays, root)
    return replace(made, notes=(*made.notes, *said), classes=classes)


def _parts(found: Any, root: Path) -> dict[str, Any]:
    """Our names of splits to those of the folder; one split is to be divided."""
    if not isinstance(found, dict):
        return {"": found}
    named = {SPLITS[name.lower()]: part for name, part in found.items() if name.lower() in SPLITS}
    if len(found) == 1:
        return {"": next(iter(found.values()))}
    if len(named) < len(found) or "calibrate" not in named:
        raise InputError(
            f"{root} has the splits {', '.join(found)}: it takes one for each of {', '.join(NAMES)} (train and "
            "validation are known too), or one alone."
        )
    return named


def _classes(parts: list[dict[str, Array]]) -> list[str]:
    """All labels that are text, of all splits together."""
    name = next((name for name in LABELS if name in parts[0]), "")
    found = [columns[name] for columns in parts if name in columns and columns[name].dtype.kind == "O"]
    return sorted({str(one) for column in found for one in column})


def _columns(part: Any, where: str) -> tuple[dict[str, Array], list[str]]:
    """By name, and the classes' names where a ClassLabel is the column `y`."""
    columns: dict[str, Array] = {}
    classes: list[str] = []
    for name, feature in part.features.items():
        kind = type(feature).__name__
        if raw := RAW.get(kind):
            if raw in columns:
                raise InputError(f"{where}: two columns are of the type {kind}; one is taken: {raw}.")
            columns[raw] = _files(part.cast_column(name, type(feature)(decode=False))[name], name, where)
            continue
        columns[name] = array(list(part[name]), name, where)
        if kind == "ClassLabel" and (name in LABELS or not any(one in part.features for one in LABELS)):
            classes = [str(one) for one in feature.names]
            columns = {**{key: value for key, value in columns.items() if key != name}, "y": columns[name]}
            if (columns["y"] < 0).any():
                raise InputError(f"{where}: '{name}' has the label -1, which datasets gives to what has none.")
    return columns, classes


def _files(cells: Any, name: str, where: str) -> Array:
    """A file's bytes, or its path where it lies beside."""
    found = [cell and (cell["bytes"] or cell["path"]) for cell in cells]
    if None in found:
        raise InputError(f"{where}: column '{name}' is empty in row {found.index(None) + 1}.")
    column = texts(found)
    column[:] = found
    return column
