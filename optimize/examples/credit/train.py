"""Fit the classifier: `python train.py [model.skops]`."""

import sys
from collections.abc import Callable
from pathlib import Path

import skops.io
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

try:  # by `optimize demo`
    from .data import splits
except ImportError:  # as a script
    from data import splits

MADE = "model.skops"


def train(path: Path, seed: int = 0, progress: Callable[[int, int, str], None] = lambda *_: None) -> None:
    """Fit on calibrate, and write the pipeline to `path`."""
    model = make_pipeline(
        StandardScaler(), MLPClassifier((128, 64), alpha=1e-2, early_stopping=True, random_state=seed)
    )
    skops.io.dump(model.fit(*splits()["calibrate"]), path)


if __name__ == "__main__":
    train(Path(sys.argv[1] if len(sys.argv) > 1 else MADE))
