"""A folder of pictures: a class a folder; or `images` and `masks`, each mask of its picture's name; or none of both.

`train`, `val` and `test` (or our own names of splits) may lie above. A picture is read when it is needed, and what
becomes of it is `runtime.pre.image`'s; a mask has a class number a pixel, 255 where none counts.
"""

from pathlib import Path

from optimize.data import Splits
from optimize.data._folders import divided, found, holds, parts, splits, texts
from runtime.errors import InputError
from runtime.tensors import Array

ENDS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
COLUMN = "image"
PICTURES, MASKS = "images", "masks"


def claims(place: str) -> bool:
    """A folder with pictures in it."""
    return holds(place, ENDS)


def load(place: str) -> Splits:
    """The paths of its pictures, with their classes' numbers or their masks' paths.

    Raises:
        InputError: no such folder, no pictures in it, or a picture without its mask.
    """
    root = Path(place)
    if not root.is_dir():
        raise InputError(f"no such folder: {root} (the data).")
    folders = parts(root)
    if not all((folder / MASKS).is_dir() for folder in folders.values()):
        return splits(root, COLUMN, ENDS, "pictures")
    return divided({split: _masked(folder) for split, folder in folders.items()}, root)


def _masked(folder: Path) -> dict[str, Array]:
    pictures = found(folder / PICTURES, ENDS)
    masks = {path.stem: path for path in found(folder / MASKS, ENDS)}
    if not pictures:
        raise InputError(f"{folder / PICTURES} has no pictures ({', '.join(ENDS)}).")
    if lacking := [path.name for path in pictures if path.stem not in masks]:
        raise InputError(f"{folder / MASKS} lacks the masks of {len(lacking)} pictures, the first of {lacking[0]}.")
    return {COLUMN: texts(pictures), "y": texts([masks[path.stem] for path in pictures])}
