"""Question answering: the share of questions to which the best span of tokens is that of an answer, as in SQuAD.

The first output has each token's score to begin the answer, (samples, length), the second its score to end it. The
labels are whole numbers (samples, 2 + answers, 2), the first and the last token of the context, then of what stands for
"there is no answer" (-1 where each question has one), then of each answer, filled up with -1; the nearest counts.
The best span has the largest sum of both scores, within the context and of at most 30 tokens.

Tokens are compared, not texts, so that no text is needed: SQuAD's own script, which forgives case, articles and
punctuation, calls a few more answers right (Rajpurkar et al. 2016, arXiv:1606.05250).
"""

import numpy as np

from optimize.metrics import Metric, Outputs, share
from runtime.errors import InputError
from runtime.tensors import Array

LONGEST = 30  # tokens of an answer, as is custom


def scores(outputs: Outputs) -> tuple[Array, Array]:
    """Of beginning and ending the answer, both (samples, length), in float64.

    Raises:
        InputError: the outputs are none.
    """
    both = list(outputs.values())[:2]
    if len(both) < 2 or both[0].ndim != 2 or both[0].shape != both[1].shape or both[0].dtype.kind != "f":
        shapes = ", ".join(f"{one.dtype} {one.shape}" for one in both)
        raise InputError(f"the outputs are {shapes}; spans need two of scores (samples, length), of begin and end.")
    return both[0].astype(np.float64), both[1].astype(np.float64)


def spans(outputs: Outputs, labels: Array) -> tuple[Array, Array]:
    """The first and the last token of what each sample answers, (samples, 1, 2), and of its answers, (samples, n, 2).

    Raises:
        InputError: the outputs or the labels are none.
    """
    begin, end = scores(outputs)
    if labels.dtype.kind not in "iu" or labels.ndim != 3 or labels.shape[::2] != (len(begin), 2) or labels.shape[1] < 3:
        raise InputError(
            f"labels {labels.dtype} {labels.shape} do not fit outputs {begin.shape}: spans need whole numbers "
            f"({len(begin)}, 2 + answers, 2), the first and the last token of the context, of none, and of each answer."
        )
    if labels.max() >= begin.shape[1]:
        raise InputError(f"token {labels.max()} of a label is outside the sample's, 0 to {begin.shape[1] - 1}.")
    if (labels[:, 0] < 0).any() or (labels[:, :, 1] < labels[:, :, 0]).any():
        raise InputError("a label has no context, or a span that ends before it begins.")
    return best(begin, end, labels[:, 0], labels[:, 1])[:, None], labels[:, 2:]


def best(begin: Array, end: Array, context: Array, none: Array) -> Array:
    """The best span of each sample, (samples, 2).

    Args:
        begin: scores (samples, length).
        end: likewise.
        context: (samples, 2), the first and the last token within which it lies.
        none: (samples, 2), what is as good an answer; -1 where it is none.
    """
    samples, length = begin.shape
    row, place = np.arange(samples), np.arange(length)
    outside = (place < context[:, :1]) | (place > context[:, 1:])
    first, last = (np.where(outside, -np.inf, value) for value in (begin, end))
    found, value = context[:, [0, 0]].astype(np.int64), np.full(samples, -np.inf)

    def take(spans: Array, sums: Array) -> None:
        better = sums > value
        found[better], value[better] = spans[better], sums[better]

    for more in range(min(LONGEST, length)):
        sums = first[:, : length - more] + last[:, more:]
        chosen = sums.argmax(1)
        take(np.stack([chosen, chosen + more], 1), sums[row, chosen])
    take(none, np.where(none[:, 0] >= 0, begin[row, none[:, 0]] + end[row, none[:, 1]], -np.inf))
    return found


def update(outputs: Outputs, labels: Array) -> Array:
    """Right or wrong, (samples, 1)."""
    found, answers = spans(outputs, labels)
    return np.asarray((found == answers).all(2).any(1, keepdims=True), np.float64)


METRIC = Metric("exact_match", "share", True, update, share, classes=False)
