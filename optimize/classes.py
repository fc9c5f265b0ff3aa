"""The names of classes: the data numbers them in one order, and a model may have learned them in another."""

from collections.abc import Sequence

import numpy as np

from optimize.data import Batch, Splits

SHOWN = 10


def aligned(splits: Splits, known: Sequence[str]) -> Splits:
    """Splits whose labels are numbered as the model numbers its classes; what was done is in their notes.

    Args:
        splits: with the names of their classes, where they have them.
        known: the model's, in order; none where it does not say.
    """
    own, theirs = [name.casefold() for name in splits.classes], [name.casefold() for name in known]
    if not own or not theirs or own == theirs[: len(own)]:
        return splits
    if lacking := [name for name in splits.classes if name.casefold() not in theirs]:
        note = (
            f"the data has the class '{lacking[0]}', which is none of the model's ({_listed(known)}): "
            "labels are taken for the numbers of the model's classes"
        )
        return splits.converted(lambda batch: batch, [note])
    numbers = np.array([theirs.index(name) for name in own], np.int64)

    def convert(batch: Batch) -> Batch:
        feeds, labels = batch
        return feeds, labels if labels is None or labels.dtype.kind not in "iu" else numbers[labels]

    return splits.converted(convert, [f"the labels were numbered anew, in the model's order: {_listed(known)}"])


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''}"
