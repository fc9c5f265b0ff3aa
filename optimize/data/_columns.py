"""Columns of a table as inputs and labels: what is text, what a number, and what a list of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimize.data import LABELS as PLAIN
from optimize.data._answers import ANSWERS, CONTEXT, QUESTION, given, spans
from optimize.data._folders import texts
from runtime.errors import InputError
from runtime.tensors import Array

LABELS = (*PLAIN, "target", "class")
SOUND, SAID = "audio", ("transcript", "transcription", "sentence", "text")  # what is said is what a sound's label is
IGNORED = -100  # a label that does not count, with which lists of them are made equally long
SHOWN = 10


def array(values: Sequence[Any] | Array, name: str, where: str) -> Array:
    """A column as an array: numbers as they are, lists of equal sizes stacked, answers as objects, else text.

    Raises:
        InputError: a cell is empty, or lists differ in size and are no labels.
    """
    empty = [place for place, cell in enumerate(values) if cell is None]
    if empty:
        raise InputError(f"{where}: column '{name}' has {len(empty)} empty cells, the first in row {empty[0] + 1}.")
    if name == ANSWERS and given(values):
        found = np.empty(len(values), object)
        found[:] = list(values)
        return found
    if len(values) and all(isinstance(one, list | np.ndarray) for one in values):
        return _stacked([np.asarray(one) for one in values], name, where)
    odd = next((row for row, one in enumerate(values) if isinstance(one, list | dict | np.ndarray)), None)
    if odd is not None:
        raise InputError(f"{where}: column '{name}' has a {type(values[odd]).__name__} in row {odd + 1}, and no other.")
    found = np.asarray(values)
    return found if found.dtype.kind in "biuf" else texts(values)


def _stacked(lists: list[Array], name: str, where: str) -> Array:
    odd = next((row for row, one in enumerate(lists) if one.dtype.kind not in "biuf" and one.size), None)
    if odd is not None:
        raise InputError(f"{where}: column '{name}' has a list that is not of numbers, in row {odd + 1}.")
    shapes = {one.shape for one in lists}
    if len(shapes) == 1:
        found = np.stack(lists)
        return found.astype(np.float32) if found.dtype.kind == "f" else found
    whole = all(one.ndim == 1 and (one.dtype.kind in "iu" or not one.size) for one in lists)
    if name in LABELS and whole:
        found = np.full((len(lists), max(map(len, lists))), IGNORED, np.int64)
        for row, one in enumerate(lists):
            found[row, : len(one)] = one
        return found
    shown = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3])
    raise InputError(f"{where}: the lists in column '{name}' have {len(shapes)} sizes, {shown} say: make them equal.")


def labelled(
    columns: Mapping[str, Array], where: str, names: Sequence[str] = ()
) -> tuple[dict[str, Array], tuple[str, ...], list[str]]:
    """The columns, their labels last as `y`, whole numbers or floats; the classes' names; what a reader should know.

    Text is numbered in the order of the alphabet. Answers to questions about a context become where they stand in it,
    and what is said in a sound stays text; columns beside them are left out.

    Args:
        columns: by name.
        where: for messages.
        names: of the classes, where they are known, in order.

    Raises:
        InputError: there is nothing but labels, or one is no number.
    """
    rest = dict(columns)
    lacking = [name for name in (QUESTION, CONTEXT) if name not in rest]
    if not lacking:  # the order in which tokenizers take them
        rest = {name: rest[name] for name in (QUESTION, CONTEXT)} | rest
    if ANSWERS in rest and rest[ANSWERS].dtype == object:
        if lacking:
            raise InputError(
                f"{where}: '{ANSWERS}' are of a question and its context, and there is no column '{lacking[0]}'."
            )
        labels = spans(rest[ANSWERS], rest[CONTEXT], where)
        return _alone(rest, (QUESTION, CONTEXT), ANSWERS, labels, where)
    said = next((name for name in SAID if name in rest and rest[name].dtype == object), None)
    if SOUND in rest and said and not set(LABELS) & set(rest):
        return _alone(rest, (SOUND,), said, rest[said].astype(str), where)
    found = next((name for name in LABELS if name in rest), None)
    if found is None:
        shown = ", ".join(list(rest)[:20])
        return (
            rest,
            (),
            [
                f"{where} has no column of labels: its columns are {shown}; one called {', '.join(LABELS[:-1])} or "
                f"{LABELS[-1]} would be it. Candidates are held against the original's own answers"
            ],
        )
    labels, notes = rest.pop(found), []
    if not rest:
        raise InputError(f"{where} has nothing but labels.")
    if labels.dtype.kind == "O":
        names = names or sorted({str(one) for one in labels})
        number = {name: place for place, name in enumerate(names)}
        labels, how = np.array([number[str(one)] for one in labels], np.int64), "numbered in the order of the alphabet"
    else:
        how = "numbered as the data has them"
    if names:
        notes.append(
            f"the labels are {how}: {', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''} "
            f"are 0 to {len(names) - 1}"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        row = int(np.argwhere(~np.isfinite(labels))[0][0])
        raise InputError(f"{where}: the label in row {row + 1} is no number ({found} = {labels[row]}).")
    kind = np.float32 if labels.dtype.kind == "f" else np.int64
    return {**rest, "y": labels.astype(kind)}, tuple(names), notes


def _alone(
    columns: Mapping[str, Array], inputs: Sequence[str], name: str, labels: Array, where: str
) -> tuple[dict[str, Array], tuple[str, ...], list[str]]:
    """Inputs and labels of which nothing but their names tells what they are."""
    left = sorted(set(columns) - {*inputs, name})
    note = f"{where}: the labels are the column '{name}', for {' and '.join(inputs)}"
    return (
        {**{one: columns[one] for one in inputs}, "y": labels}, (),
        [note + (f"; not used: {', '.join(left)}" if left else "")],
    )  # fmt: skip
