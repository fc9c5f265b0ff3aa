"""A table: .csv, .tsv, .jsonl or .parquet, a row a sample, its labels in `y`, `label`, `labels`, `target` or `class`.

Columns of numbers are one input `x`, in the file's order; where some are text, each column is an input by its name. A
column `split` says of each row whether it is for calibrate, validate or test; without it the rows are divided.
Text in the label column is numbered in the order of the alphabet. A column `image` or `audio` has paths from the
table's folder to files in it, which are read when they are needed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from optimize.data import NAMES, Splits, from_arrays
from optimize.data._folders import inside, texts
from runtime import pre
from runtime.engines import library
from runtime.errors import EngineError, InputError
from runtime.tensors import Array

ENDS = (".csv", ".tsv", ".jsonl", ".parquet")
LABELS = ("y", "label", "labels", "target", "class")
SPLIT = "split"


def claims(place: str) -> bool:
    """A path that ends in .csv, .tsv, .jsonl or .parquet."""
    return place.endswith(ENDS)


def load(place: str) -> Splits:
    """Read the columns, their types told by pyarrow.

    Raises:
        InputError: it is no table, a cell is empty, or there is no column of labels beside others.
    """
    path = Path(place)
    if not path.is_file():
        raise InputError(f"no such file: {path} (the data).")
    columns = _columns(path)
    if len(columns) < 2 or not len(next(iter(columns.values()))):
        raise InputError(f"{path} has {len(columns)} columns and no rows to learn from, where samples were expected.")
    found = [name for name in LABELS if name in columns]
    if not found:
        raise InputError(
            f"{path} has no column of labels: its columns are {', '.join(list(columns)[:20])}; call one of them "
            f"{', '.join(LABELS[:-1])} or {LABELS[-1]}."
        )
    labels = columns.pop(found[0])
    if labels.dtype.kind not in "biuf":
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int64)
    which = columns.pop(SPLIT, None)
    if not columns:
        raise InputError(f"{path} has nothing but labels.")
    for name in set(columns) & set(pre.names()) - {"text"}:
        columns[name] = texts([inside(path.parent, str(one)) for one in columns[name]])
    if all(value.dtype.kind in "biuf" for value in columns.values()):
        feeds: dict[str, Array] = {"x": np.stack([one.astype(np.float32) for one in columns.values()], axis=1)}
    else:
        feeds = {
            name: (one.astype(np.float32) if one.dtype.kind in "biuf" else one)[:, None]
            for name, one in columns.items()
        }
    feeds["y"] = labels.astype(np.float32) if labels.dtype.kind == "f" else labels.astype(np.int64)
    if which is None:
        return from_arrays({"": feeds}, str(path))
    if odd := sorted({str(one) for one in which} - set(NAMES)):
        raise InputError(f"{path}: the column '{SPLIT}' has '{odd[0]}'; it takes {', '.join(NAMES)}.")
    rows = {name: np.flatnonzero(which == name) for name in NAMES}
    return from_arrays({name: {key: value[at] for key, value in feeds.items()} for name, at in rows.items()}, str(path))


def _columns(path: Path) -> dict[str, Array]:
    """Name to numbers, or to objects that are text."""
    try:
        csv, json, parquet, types = (
            library(f"pyarrow.{name}", "tables") for name in ("csv", "json", "parquet", "types")
        )
    except EngineError as error:
        raise InputError(str(error)) from error
    try:
        table: Any = (
            parquet.read_table(path)
            if path.suffix == ".parquet"
            else json.read_json(path)
            if path.suffix == ".jsonl"
            else csv.read_csv(path, parse_options=csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
        )
    except Exception as error:  # pyarrow's own share no base but Exception
        raise InputError(f"{path} cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())[:200]}") from error
    found: dict[str, Array] = {}
    for name in table.column_names:
        column = table.column(name)
        empty = [place for place, cell in enumerate(column.is_null().to_pylist()) if cell]
        if empty:
            raise InputError(f"{path}: column '{name}' has {len(empty)} empty cells, the first in row {empty[0] + 1}.")
        if types.is_nested(column.type):
            raise InputError(f"{path}: column '{name}' has lists or objects in its cells; it takes numbers or text.")
        values = column.to_numpy()
        if values.dtype.kind not in "biuf":
            values = np.array([str(one) for one in values], dtype=object)
        found[name] = values
    return found
