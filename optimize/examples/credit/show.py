"""AUC and its drop in each of the two groups, for each engine of the bundle: `python show.py`, beside its recipe."""

from pathlib import Path

import numpy as np
import skops.io
from sklearn.metrics import roc_auc_score

import runtime
from runtime import bundle

try:  # by `optimize demo`
    from .data import GROUPS, applicants, parts
except ImportError:  # as a script
    from data import GROUPS, applicants, parts

RESAMPLES = 200


def drop(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """What the AUC loses, and its 90 % interval by a bootstrap over the same applicants."""
    random = np.random.default_rng(0)
    lost = []
    for _ in range(RESAMPLES):
        rows = random.integers(0, len(labels), len(labels))
        lost.append(roc_auc_score(labels[rows], before[rows]) - roc_auc_score(labels[rows], after[rows]))
    low, high = np.quantile(lost, (0.05, 0.95))
    return roc_auc_score(labels, before) - roc_auc_score(labels, after), float(low), float(high)


def show(folder: Path) -> str:
    """The table on test, a line a group and engine."""
    x, labels, group = (array[parts()["test"]] for array in applicants())
    place = folder / "example" / "model.skops"
    trusted = skops.io.get_untrusted_types(file=place)  # made here, by train.py
    before = skops.io.load(place, trusted=trusted).predict_proba(x)[:, 1]
    lines = ["AUC by group, on test:"]
    for entry in bundle.read(folder / "bundle").engines:
        with runtime.load(folder / "bundle", engine=entry.name) as model:
            after = model(x)[:, 1]
        for number, name in enumerate(GROUPS):
            own = group == number
            lost, low, high = (100 * value for value in drop(before[own], after[own], labels[own]))
            lines.append(
                f"  {entry.name}, {name} ({own.sum():,}): original {roc_auc_score(labels[own], before[own]):.4f}, "
                f"now {roc_auc_score(labels[own], after[own]):.4f}, drop {lost:+.2f} [{low:+.2f}, {high:+.2f}] pp"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    print(show(Path(__file__).resolve().parents[1]))
