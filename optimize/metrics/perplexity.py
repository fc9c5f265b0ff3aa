"""How many tokens a language model hesitates between: e to the mean of minus the log probability of each token.

The first output is (samples, length, vocabulary), logits or probabilities; the labels are (samples, length) token
numbers, already shifted to what each place should say, negative where nothing is to be said (-100 by custom).
"""

import numpy as np

from optimize.metrics import Metric, Outputs, first
from optimize.metrics.log_loss import log_probabilities
from runtime.errors import InputError
from runtime.tensors import Array


def _update(outputs: Outputs, labels: Array) -> Array:
    scores = first(outputs)
    if scores.ndim != 3 or labels.dtype.kind not in "iu" or labels.shape != scores.shape[:2]:
        raise InputError(
            f"labels {labels.dtype} {labels.shape} do not fit an output {scores.shape}: perplexity needs token numbers "
            "(samples, length) for (samples, length, vocabulary)."
        )
    if labels.max(initial=0) >= scores.shape[2]:
        raise InputError(f"token {labels.max()} is outside the vocabulary, 0 to {scores.shape[2] - 1}.")
    said = labels >= 0
    found = log_probabilities(scores.reshape(-1, scores.shape[2])).reshape(scores.shape)
    own = np.take_along_axis(found, np.where(said, labels, 0)[..., None].astype(np.int64), 2)[..., 0]
    return np.stack([-(own * said).sum(1), said.sum(1)], 1).astype(np.float64)


def _finish(rows: Array) -> float:
    lost, tokens = rows.sum(0)
    return float(np.exp(lost / tokens)) if tokens else float("nan")


METRIC = Metric("perplexity", "", False, _update, _finish)
