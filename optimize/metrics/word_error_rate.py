"""Word error rate: insertions, deletions and substitutions (Levenshtein 1966) over the number of words that were said.

The first output and the labels are texts, one a sample, or whole numbers (samples, length) with negative ones as
padding: one word a number. Where the labels are texts, and the model is a folder of transformers that hears by CTC, its
scores (samples, frames, tokens) are made texts by its own vocabulary. Edit distances are rapidfuzz's.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from optimize.metrics import Metric, Outputs, first
from runtime.errors import InputError
from runtime.tensors import Array


def _words(value: Array, what: str) -> list[Sequence[Any]]:
    if value.dtype.kind in "USO" and value.size == len(value):
        texts = (one.decode() if isinstance(one, bytes) else str(one) for one in value.reshape(-1))
        return [text.split() for text in texts]
    if value.dtype.kind in "iu" and value.ndim == 2:
        return [row[row >= 0].tolist() for row in value.astype(np.int64)]
    raise InputError(
        f"{what} of dtype {value.dtype} and shape {value.shape}: word_error_rate, which labels that are texts are for, "
        "needs a text a sample, or word numbers (samples, length) with negative ones as padding. Of classes the labels "
        "are whole numbers from 0; what scores of speech say, the folder of transformers knows that they came from: "
        "name it first."
    )


def _update(outputs: Outputs, labels: Array) -> Array:
    from rapidfuzz.distance import Levenshtein

    said, heard = _words(labels, "labels"), _words(first(outputs), "an output")
    if (labels.dtype.kind in "iu") != (first(outputs).dtype.kind in "iu"):
        raise InputError(
            f"labels of dtype {labels.dtype} for answers of dtype {first(outputs).dtype}: texts or numbers."
        )
    if len(said) != len(heard):
        raise InputError(f"{len(heard)} answers for {len(said)} labels.")
    errors = [Levenshtein.distance(mine, theirs) for mine, theirs in zip(heard, said, strict=True)]
    return np.array([errors, [len(words) for words in said]], np.float64).T


def _finish(rows: Array) -> float:
    errors, words = rows.sum(0)
    return float(errors / words) if words else float("nan")


METRIC = Metric("word_error_rate", "share", False, _update, _finish)
