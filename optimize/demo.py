"""`optimize demo`: train the digits example, then do exactly what `optimize run` does with its recipe."""

import contextlib
import shutil
from pathlib import Path

from optimize import recipe
from optimize.folder import LOG, claimed
from optimize.pipeline import run
from optimize.progress import Progress
from optimize.report import Report

EXAMPLE = Path(__file__).parent / "examples" / "digits"
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "weights.pth")


def demo(out: Path, seed: int) -> Report:
    """Copy the example into the output folder, train its weights there, and run its recipe."""
    from optimize.examples.digits.train import train

    with claimed(out) as folder, contextlib.closing(Progress(1)) as progress:
        (folder / LOG).touch()  # the folder is ours from now on, whatever happens
        example = folder / "example"
        shutil.copytree(EXAMPLE, example, dirs_exist_ok=True, ignore=_NOT_COPIED)
        progress.stage("train a small residual network on 677 of scikit-learn's digits")
        train(example / "weights.pth", seed, progress.count)
    return run(recipe.load(example / "recipe.toml"), out=out)
