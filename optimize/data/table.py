"""A table: .csv, .tsv, .parquet, or JSON lines (.jsonl, .ndjson), a row a sample; labels in `y`, `label`, `target` ...

Columns of numbers are one input `x`, in the file's order; where some are text or lists, each column is an input by its
name. A column `split` says of each row whether it is for calibrate, validate or test; without it the rows are divided.
A column `image` or `audio` has paths from the table's folder to files in it, which are read when they are needed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from optimize.data import NAMES, Splits, from_arrays
from optimize.data._columns import array, labelled
from optimize.data._folders import SPLITS, divided, inside, texts
from runtime import pre
from runtime.engines import library
from runtime.errors import EngineError, InputError
from runtime.tensors import Array

LINES = (".jsonl", ".ndjson")
ENDS = (".csv", ".tsv", ".parquet", *LINES)
SPLIT = "split"
EXACT = 2**24  # whole numbers up to it are the same in float32


def claims(place: str) -> bool:
    """A path that ends in .csv, .tsv, .parquet, .jsonl or .ndjson."""
    return place.endswith(ENDS)


def load(place: str) -> Splits:
    """Read the columns, their types told by pyarrow.

    Raises:
        InputError: it is no table, a cell is empty, or there is nothing but labels.
    """
    path = Path(place)
    if not path.is_file():
        raise InputError(f"no such file: {path} (the data).")
    columns = _columns(path)
    if not columns or not len(next(iter(columns.values()))):
        raise InputError(f"{path} has {len(columns)} columns and no rows, where samples were expected.")
    which = columns.pop(SPLIT, None)
    feeds, classes, notes = labelled(columns, str(path))
    labels = feeds.pop("y", None)
    if not feeds:
        raise InputError(f"{path} has no columns beside '{SPLIT}'.")
    for name in set(feeds) & set(pre.names()) - {"text"}:
        feeds[name] = texts([inside(path.parent, str(one)) for one in feeds[name]])
    if all(value.dtype.kind in "biuf" and value.ndim == 1 for value in feeds.values()):
        if rounded := [name for name, one in feeds.items() if one.dtype.kind in "iu" and np.abs(one).max() > EXACT]:
            notes.append(f"{path}: whole numbers above {EXACT} in '{rounded[0]}' are rounded to float32")
        feeds = {"x": np.stack([one.astype(np.float32) for one in feeds.values()], axis=1)}
    else:
        feeds = {name: _typed(one) for name, one in feeds.items()}
    if labels is not None:
        feeds["y"] = labels
    if which is None:
        made = from_arrays({"": feeds}, str(path))
    else:
        made = divided(_parts(feeds, [str(one) for one in which], path), path)
    return replace(made, notes=(*made.notes, *notes), classes=classes)


def _typed(one: Array) -> Array:
    """(rows, 1) of int64, float32 or text; a list a row as it is."""
    if one.dtype.kind in "fb":
        one = one.astype(np.float32)
    return one[:, None] if one.ndim == 1 else one


def _parts(feeds: dict[str, Array], which: list[str], path: Path) -> dict[str, dict[str, Array]]:
    known = [SPLITS.get(one.lower(), one) for one in which]
    if odd := sorted(set(known) - set(NAMES)):
        raise InputError(f"{path}: the column '{SPLIT}' has '{odd[0]}'; it takes {', '.join(NAMES)}.")
    if "calibrate" not in known or len(set(known)) < 2:
        raise InputError(f"{path}: the column '{SPLIT}' has {', '.join(sorted(set(known)))} alone.")
    rows = {name: [row for row, one in enumerate(known) if one == name] for name in dict.fromkeys(known)}
    return {name: {key: value[at] for key, value in feeds.items()} for name, at in rows.items()}


def _columns(path: Path) -> dict[str, Array]:
    """Name to numbers, lists of them, or objects that are text."""
    try:
        csv, json, parquet, types = (
            library(f"pyarrow.{name}", "tables") for name in ("csv", "json", "parquet", "types")
        )
    except EngineError as error:
        raise InputError(str(error)) from error
    try:
        table: Any
        if path.suffix == ".parquet":
            table = parquet.read_table(path)
        elif path.suffix in LINES:
            table = json.read_json(path)
        else:
            table = csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    except Exception as error:  # pyarrow's own share no base but Exception
        raise InputError(f"{path} cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())[:200]}") from error
    found = {}
    for name in table.column_names:
        column = table.column(name)
        plain = types.is_primitive(column.type) and not column.null_count
        found[name] = array(column.to_numpy() if plain else column.to_pylist(), name, str(path))
    return found
