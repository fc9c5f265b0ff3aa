"""Answers to questions about a context, and where in it they stand, in the forms that SQuAD's data has."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.tensors import Array

QUESTION, CONTEXT, ANSWERS = "question", "context", "answers"


def given(values: Sequence[Any] | Array) -> bool:
    """Whether cells are answers: texts, or texts with their places."""
    return any(isinstance(one, Mapping | str) or _listed(one) for one in values)


def spans(cells: Array, contexts: Array, where: str) -> Array:
    """(rows,) of int64 (answers, 2): the characters of the context from an answer's first to behind its last.

    Where some questions have no answer, each row begins with -1, -1: it may be right to give none.

    Args:
        cells: a text, a list of texts, {"text": [...], "answer_start": [...]}, or a list of such for one text each. A
            text without its place counts wherever it stands.
        contexts: texts.
        where: for messages.

    Raises:
        InputError: a cell is of another form, or an answer does not stand where it should.
    """
    found = [_spans(cell, str(context), f"{where}, row {row + 1}") for row, (cell, context) in enumerate(
        zip(cells, contexts, strict=True)
    )]  # fmt: skip
    none = [] if all(found) else [(-1, -1)]
    column = np.empty(len(found), object)
    for row, own in enumerate(found):
        column[row] = np.array([*none, *own], np.int64).reshape(-1, 2)
    return column


def _listed(cell: Any) -> bool:
    return isinstance(cell, list) and any(isinstance(one, Mapping | str) for one in cell)


def _spans(cell: Any, context: str, where: str) -> list[tuple[int, int]]:
    if isinstance(cell, list) and all(isinstance(one, Mapping) for one in cell):
        cell = {key: [one.get(key) for one in cell] for key in ("text", "answer_start")}
    texts, starts = (cell.get("text"), cell.get("answer_start")) if isinstance(cell, Mapping) else (cell, None)
    texts = [texts] if isinstance(texts, str) else texts
    starts = [starts] if isinstance(starts, int) else starts
    if not isinstance(texts, list) or not all(isinstance(one, str) and one for one in texts):
        raise InputError(
            f'{where}: answers are {{"text": [...], "answer_start": [...]}}, or a list of texts; got {str(cell)[:80]}.'
        )
    if starts is None:
        found = {(at, at + len(text)) for text in texts for at in range(len(context)) if context.startswith(text, at)}
    elif len(starts) == len(texts) and all(isinstance(at, int) for at in starts):
        found = {(at, at + len(text)) for text, at in zip(texts, starts, strict=True)}
    else:
        raise InputError(f"{where}: {len(texts)} answers have the places {str(starts)[:80]}.")
    lost = [text for text in texts if not any(begin >= 0 and context[begin:end] == text for begin, end in found)]
    if lost:
        raise InputError(f"{where}: the answer '{lost[0][:80]}' does not stand in the context where it should.")
    return sorted(found)
