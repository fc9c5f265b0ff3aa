"""The order in which samples are dealt out to splits: at random, or each class spread evenly."""

import numpy as np

from runtime.tensors import Array

STRATIFY_FROM = 10  # samples of the rarest class


def in_order(labels: Array | None, samples: int) -> tuple[Array, bool]:
    """Places of the samples with a fixed seed, and whether every stretch of them has its share of each class."""
    random = np.random.default_rng(0)
    order = random.permutation(samples)
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return order, False
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if counts.min() < STRATIFY_FROM:
        return order, False
    rank = np.empty(samples)
    for one in range(len(counts)):
        members = order[classes[order] == one]
        rank[members] = (np.arange(len(members)) + random.random()) / len(members)
    return np.argsort(rank, kind="stable"), True
