"""`optimize demo NAME`: make an example's model, run its recipe, and hold the result against knowing nothing.

Two things an example may have besides: `trivial()` in data.py answers the test split without a model, where the shares
of the classes or the mean are not the baseline to beat; `show(folder)` in show.py looks at what the run made, and
returns lines to print.
"""

import contextlib
import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from optimize import data, metrics, recipe
from optimize.folder import LOG, claimed
from optimize.metrics import Rows
from optimize.pipeline import run
from optimize.progress import Progress
from optimize.report import Report, Row
from runtime.errors import InputError
from runtime.listing import unknown
from runtime.tensors import Array

EXAMPLES = Path(__file__).parent / "examples"
_NOT_COPIED = shutil.ignore_patterns("__pycache__", "weights.pth", "*.skops")


@dataclass(frozen=True)
class Demo:
    """A run's report, and what it is worth.

    Attributes:
        line: the metric of what was chosen beside the trivial baseline's.
        above: it is better than that.
        shown: what the example itself says of the result.
    """

    report: Report
    line: str
    above: bool
    shown: str = ""


def names() -> list[str]:
    """The examples: folders with a recipe."""
    return sorted(path.parent.name for path in EXAMPLES.glob("*/recipe.toml"))


def about() -> dict[str, dict[str, str]]:
    """Each example with its README's title."""
    readmes = {name: (EXAMPLES / name / "README.md").read_text(encoding="utf-8") for name in names()}
    return {name: {"about": text.splitlines()[0].lstrip("# ")} for name, text in readmes.items()}


def demo(name: str, out: Path, seed: int) -> Demo:
    """Copy the example into the output folder, make its model there, run its recipe, and compare with the baseline.

    Raises:
        InputError: there is no such example, or something in `out` is in its way.
    """
    if name not in names():
        raise InputError(unknown("example", name, names()))
    training = importlib.import_module(f"optimize.examples.{name}.train")
    with claimed(out) as folder, contextlib.closing(Progress(1)) as progress:
        (folder / LOG).touch()  # the folder is ours from now on, whatever happens
        example = folder / "example"
        shutil.copytree(EXAMPLES / name, example, dirs_exist_ok=True, ignore=_NOT_COPIED)
        progress.stage(f"make the model of '{name}'")
        training.train(example / training.MADE, seed, progress.count)
    asked = recipe.load(example / "recipe.toml")
    report = run(asked, out=out)
    rows = {row.name: row for row in report.candidates}
    chosen = [rows[one] for one in report.chosen.values()]
    if not chosen or (value := _worst(chosen, report)) is None:
        return Demo(report, f"{name}: nothing was chosen that could be compared.", False)
    trivial = baseline(name, asked)
    above = value > trivial if report.data.higher_is_better else value < trivial
    words = "better" if above else "NOT better"
    line = f"{name}: {report.data.judged_by} {value:.4g}, {words} than the trivial baseline's {trivial:.4g}."
    shown = ""
    if (EXAMPLES / name / "show.py").exists():
        shown = importlib.import_module(f"optimize.examples.{name}.show").show(out)
    return Demo(report, line, above, shown)


def baseline(name: str, asked: recipe.Recipe) -> float:
    """The metric, on test, of the example's own `trivial()`, else of what answers the same to all.

    That is the shares of the classes in calibrate, or the mean.
    """
    splits = data.load(asked.data.source or data.detect(asked.data_place()), asked.data_place())
    metric = metrics.get(asked.metric() or "accuracy", asked.data.better)
    _, seen = splits.calibrate.take(1_000_000)
    _, labels = splits.test.take(1_000_000)
    assert seen is not None and labels is not None  # every example has labels
    own = importlib.import_module(f"optimize.examples.{name}.data")
    answers: Array = own.trivial() if hasattr(own, "trivial") else _constant(seen, labels)
    return metric.finish(Rows.of(metric.update({"output": answers}, labels)).values)


def _constant(seen: Array, labels: Array) -> Array:
    """The same answer to each of the labels, from those that were seen."""
    constant: Array = np.array(seen.mean(), np.float32)
    if seen.dtype.kind in "iu":
        classes = max(seen.max(), labels.max()) + 1
        constant = (np.bincount(seen, minlength=classes) / len(seen)).astype(np.float32)
    return np.repeat(constant[None], len(labels), axis=0)


def _worst(rows: list[Row], report: Report) -> float | None:
    """Of the targets' chosen, the least good on test."""
    values = [row.accuracy.value for row in rows if row.accuracy is not None]
    return (min if report.data.higher_is_better else max)(values, default=None)
