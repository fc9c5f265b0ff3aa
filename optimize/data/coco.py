"""Pictures with boxes, in COCO's form: `annotations/instances_train2017.json` and the like, or a split's folder each.

    ROOT/annotations/instances_NAME.json    pictures in ROOT/NAME, ROOT/images/NAME, ROOT/images or ROOT
    ROOT/NAME/_annotations.coco.json        pictures beside it

A label is (boxes, 5): left, top, right, bottom in the picture's pixels, and the class, of which -1 is padding; what
becomes of picture and boxes is `runtime.pre.image`'s.
"""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from optimize.data import Splits
from optimize.data._folders import SPLITS, divided, inside, texts
from runtime.errors import InputError
from runtime.tensors import Array

COLUMN = "image"
FOLDER, BESIDE = "annotations", "_annotations.coco.json"
LARGEST = 1 << 30  # bytes of a file of annotations


def claims(place: str) -> bool:
    """A folder with such annotations."""
    return bool(place) and Path(place).is_dir() and bool(_found(Path(place)))


def load(place: str) -> Splits:
    """The paths of its pictures, with the boxes on each.

    Raises:
        InputError: there are no annotations, they are none of COCO's, or a picture's name leads out of the folder.
    """
    root = Path(place)
    files = _found(root) if root.is_dir() else {}
    if not files:
        raise InputError(f"{root} has no {FOLDER}/instances_train2017.json or train/{BESIDE}, or the like.")
    read = {split: _read(file, root) for split, file in files.items()}
    names = next(iter(read.values())).categories
    if odd := [files[split] for split, one in read.items() if one.categories != names]:
        raise InputError(f"{odd[0]} has other categories than {next(iter(files.values()))}.")
    most = max((len(boxes) for one in read.values() for boxes in one.boxes), default=0)
    if not most:
        raise InputError(f"{root}: there is no box in its annotations.")
    arrays = {split: {COLUMN: texts(one.pictures), "y": _padded(one.boxes, most)} for split, one in read.items()}
    splits = divided(arrays, root)
    shown = f"{', '.join(list(names.values())[:10])}{' ...' if len(names) > 10 else ''}"
    notes = [f"the classes are numbered in the order of their categories' ids: {shown}"]
    if crowds := sum(one.crowds for one in read.values()):
        notes.append(f"{crowds} boxes around crowds are left out: an answer there counts as wrong")
    if empty := sum(one.empty for one in read.values()):
        notes.append(f"{empty} boxes without an area are left out")
    return replace(splits, notes=(*splits.notes, *notes))


@dataclass(frozen=True)
class _Annotations:
    """One file of them: a picture's boxes are (n, 5)."""

    pictures: list[Path]
    boxes: list[Array]
    categories: dict[int, str]
    crowds: int
    empty: int


def _found(root: Path) -> dict[str, Path]:
    """The file of each split; of the only one, named ""."""
    listed = sorted((root / FOLDER).glob("*.json"))
    instances = [path for path in listed if path.name.startswith("instances")]
    named = [(re.sub(r"\d*$", "", path.stem.rpartition("_")[2]), path) for path in instances or listed]
    named += [(path.parent.name, path) for path in sorted(root.glob(f"*/{BESIDE}"))]
    files = {SPLITS[name.lower()]: path for name, path in named if name.lower() in SPLITS}
    if not files and (root / BESIDE).is_file():
        files = {"": root / BESIDE}
    if len(files) > 1 and "calibrate" not in files:
        raise InputError(f"{root} has annotations for {', '.join(files)}, and none to calibrate with (train).")
    return files if len(files) != 1 else {"": next(iter(files.values()))}


def _read(file: Path, root: Path) -> _Annotations:
    try:
        if file.stat().st_size > LARGEST:
            raise InputError(f"{file} is larger than {LARGEST >> 20} MiB.")
        data = json.loads(file.read_bytes())
        names = {int(one["id"]): str(one["name"]) for one in sorted(data["categories"], key=lambda one: one["id"])}
        numbers = {id_: number for number, id_ in enumerate(names)}
        images = {one["id"]: str(one["file_name"]) for one in sorted(data["images"], key=lambda one: one["id"])}
        boxes: dict[Any, list[list[float]]] = {id_: [] for id_ in images}
        crowds = empty = 0
        for one in data["annotations"]:
            left, top, width, height = map(float, one["bbox"])
            if not np.isfinite([left, top, width, height]).all():
                raise ValueError(f"bbox {one['bbox']}")
            if one.get("iscrowd"):
                crowds += 1
            elif min(width, height) <= 0:
                empty += 1
            else:
                own = [left, top, left + width, top + height, numbers[one["category_id"]]]
                boxes[one["image_id"]].append(own)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{file} has no annotations of COCO's form: {type(error).__name__} {error}") from error
    folder = _folder(file, root, next(iter(images.values()), ""))
    pictures = [inside(folder, name) for name in images.values()]
    arrays = [np.array(found, np.float64).reshape(-1, 5) for found in boxes.values()]
    return _Annotations(pictures, arrays, names, crowds, empty)


def _folder(file: Path, root: Path, picture: str) -> Path:
    """Where the pictures lie, of which this is one."""
    name = file.stem.rpartition("_")[2]
    likely = (file.parent, root / name, root / "images" / name, root / "images")
    return next((folder for folder in likely if (folder / picture).is_file()), root)


def _padded(boxes: list[Array], most: int) -> Array:
    """(samples,) of arrays (most, 5)."""
    found = np.empty(len(boxes), object)
    for place, own in enumerate(boxes):
        found[place] = np.concatenate([own, np.full((most - len(own), 5), -1.0)])
    return found
