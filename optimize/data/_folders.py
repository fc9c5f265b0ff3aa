"""Folders of files, a sample a file: a class a folder, and perhaps a split a folder above."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from optimize.data import NAMES, Splits, from_arrays
from runtime.errors import InputError
from runtime.tensors import Array

SPLITS = {
    "calibrate": "calibrate", "train": "calibrate", "training": "calibrate",
    "validate": "validate", "val": "validate", "valid": "validate", "validation": "validate",
    "test": "test",
}  # fmt: skip


def found(folder: Path, ends: Sequence[str]) -> list[Path]:
    """All files in a folder, however deep, that end so, sorted; hidden ones are none."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in ends and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def holds(place: str, ends: Sequence[str]) -> bool:
    """Whether a place is a folder with such files in it."""
    return bool(place) and Path(place).is_dir() and bool(found(Path(place), ends))


def parts(root: Path) -> dict[str, Path]:
    """The folder of each split; the whole folder, named "", where its folders are not called after splits.

    Raises:
        InputError: there are folders of some splits, but not enough, or other folders beside them.
    """
    inner = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    named = {SPLITS[name.lower()]: root / name for name in inner if name.lower() in SPLITS}
    if not named:
        return {"": root}
    strange = [name for name in inner if name.lower() not in SPLITS]
    if strange or "calibrate" not in named or len(named) < 2:
        raise InputError(
            f"{root} has the folders {', '.join(inner)}: it takes one for each of {', '.join(NAMES)} (train and val "
            "are known too), or one for each class and none for splits."
        )
    return named


def splits(root: Path, column: str, ends: Sequence[str], what: str) -> Splits:
    """Paths of files in the column `column`; where they lie in folders, the number of the folder in the alphabet as y.

    Raises:
        InputError: the folder has no such files, or a split has classes that another has not.
    """
    known: list[str] | None = None
    arrays: dict[str, dict[str, Array]] = {}
    for split, folder in parts(root).items():
        files = found(folder, ends)
        if not files:
            raise InputError(f"{folder} has no {what} ({', '.join(ends)}).")
        arrays[split] = {column: texts(files)}
        classes = [path.relative_to(folder).parts[0] if path.parent != folder else "" for path in files]
        if "" in classes and len(set(classes)) > 1:
            lone = files[classes.index("")]
            raise InputError(f"{folder} has folders of classes, and beside them {lone.name}, which is in none.")
        if "" not in classes:
            names = sorted(set(classes))
            known = known or names
            if odd := set(names) - set(known):
                raise InputError(f"{folder} has the class '{min(odd)}', which calibrate has not: {', '.join(known)}.")
            arrays[split]["y"] = np.array([known.index(name) for name in classes], np.int64)
    return divided(arrays, root, known)


def divided(arrays: dict[str, dict[str, Array]], root: Path, classes: Sequence[str] | None = None) -> Splits:
    """Splits of arrays; where there is no validate or no test, the other is halved for it."""
    note = ""
    lacking = [name for name in NAMES if name not in arrays] if "" not in arrays else []
    if lacking:
        (there,) = {"validate", "test"} - set(lacking)
        whole = arrays[there]
        order = np.random.default_rng(0).permutation(len(next(iter(whole.values()))))
        halves = np.array_split(order, 2)
        for name, rows in zip(("validate", "test"), halves, strict=True):
            arrays[name] = {key: value[np.sort(rows)] for key, value in whole.items()}
        note = f"{root} has no {lacking[0]}: {there} was halved at random (seed 0) for it"
    made = from_arrays(arrays, str(root))
    notes = [*made.notes, *([note] if note else [])]
    if classes:
        shown = f"{', '.join(classes[:10])}{' ...' if len(classes) > 10 else ''}"
        notes.append(f"the classes are numbered in the order of their folders' names: {shown}")
    return replace(made, notes=tuple(notes), classes=tuple(classes or ()))


def inside(folder: Path, name: str) -> Path:
    """A file in a folder, absolute; links are followed. InputError where its name leads out."""
    path = folder.absolute() / name
    if ".." in Path(name).parts or not path.is_relative_to(folder.absolute()):
        raise InputError(f"'{name}' leads out of {folder}.")
    return path


def texts(values: Sequence[object] | Array) -> Array:
    """A column of text."""
    return np.array([str(value) for value in values], dtype=object)
