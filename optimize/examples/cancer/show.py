"""The threshold to deploy with, tuned anew for each engine of the bundle: `python show.py`, beside its recipe."""

import json
from pathlib import Path

import numpy as np
import skops.io

import runtime
from runtime import bundle

try:  # by `optimize demo`
    from .data import splits, threshold
except ImportError:  # as a script
    from data import splits, threshold


def rates(scores: np.ndarray, labels: np.ndarray, limit: float) -> str:
    """Sensitivity and specificity at a threshold, in words."""
    found = scores > limit
    return f"sensitivity {found[labels == 1].mean():.3f}, specificity {1 - found[labels == 0].mean():.3f}"


def show(folder: Path) -> str:
    """Tune on validate, judge on test, write `thresholds.json` beside the bundle, and say what it came to."""
    data = splits()
    (seen, seen_labels), (x, labels) = data["validate"], data["test"]
    original = skops.io.load(folder / "example" / "model.skops").predict_proba
    first = threshold(original(seen)[:, 1], seen_labels)
    lines = [f"original: threshold {first:.4f} by validate; on test {rates(original(x)[:, 1], labels, first)}"]
    tuned = {}
    for entry in bundle.read(folder / "bundle").engines:
        with runtime.load(folder / "bundle", engine=entry.name) as model:
            tuned[entry.name] = threshold(model(seen)[:, 1], seen_labels)
            scores = model(x)[:, 1]
        lines.append(
            f"{entry.name}: tuned anew {tuned[entry.name]:.4f}; on test {rates(scores, labels, tuned[entry.name])}; "
            f"with the original's {rates(scores, labels, first)}"
        )
    (folder / "thresholds.json").write_text(json.dumps(tuned, indent=1) + "\n", encoding="utf-8")
    return "\n".join([*lines, f"The thresholds are in {folder / 'thresholds.json'}."])


if __name__ == "__main__":
    print(show(Path(__file__).resolve().parents[1]))
