"""`optimize demo`: train the digits example, then do exactly what `optimize run` does with its recipe."""

import contextlib
import shutil
from pathlib import Path

from optimize import recipe
from optimize.folder import claim
from optimize.pipeline import run
from optimize.progress import Progress
from optimize.report import Report

EXAMPLE = Path(__file__).parent / "examples" / "digits"


def demo(out: Path, seed: int) -> Report:
    """Copy the example into the output folder, train its weights there, and run its recipe."""
    from optimize.examples.digits.train import train

    folder = claim(out) / "example"
    shutil.copytree(EXAMPLE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "weights.pth"))
    with contextlib.closing(Progress(1)) as progress:
        progress.stage("train a small residual network on 677 of scikit-learn's digits")
        train(folder / "weights.pth", seed, progress.count)
    return run(recipe.load(folder / "recipe.toml"), out=out)
