"""The examples: each has what it needs, runs, and is held against knowing nothing."""

import contextlib
import importlib
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from optimize import demo, plan, recipe, sources
from optimize.cli import cli
from optimize.metrics import Rows
from optimize.progress import Progress
from optimize.subject import read_data
from runtime import host
from runtime.errors import InputError

WHOLE = ["cancer", "iris"]  # run from beginning to end here, and digits in the README's test


@pytest.mark.parametrize("name", demo.names())
def test_an_example_has_a_page_a_recipe_and_a_model_that_can_be_made(name, tmp_path):
    folder = demo.EXAMPLES / name
    assert {"README.md", "recipe.toml", "data.py", "train.py"} <= {path.name for path in folder.iterdir()}
    assert f"optimize demo{'' if name == 'digits' else f' {name}'}\n" in (folder / "README.md").read_text()
    assert len((folder / "README.md").read_text().splitlines()) < 40
    asked = recipe.load(folder / "recipe.toml")
    assert asked.targets and demo.about()[name]["about"]
    value = demo.baseline(name, asked)
    assert -1 < value < 0.7  # what any model must be above


def test_the_examples_are_listed(tmp_path):
    done = CliRunner().invoke(cli, ["demo", "--list", "--json"])
    assert done.exit_code == 0
    assert all(f'"{name}"' in done.output for name in demo.names())


def test_the_drop_of_a_group_is_paired_on_its_applicants():
    from optimize.examples.credit.show import drop

    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 400)
    before = labels + random.normal(size=400)
    assert drop(before, before * 3, labels) == (0, 0, 0)  # the same order
    lost, low, high = drop(before, before + random.normal(size=400), labels)
    assert 0 < low < lost < high < 0.2


def test_an_example_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"unknown example 'digit'; did you mean 'digits'\?"):
        demo.demo("digit", tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name in demo.names() if name not in [*WHOLE, "digits"]])
def test_an_examples_model_can_be_trained_and_fits_its_data_and_its_metric(name, tmp_path, monkeypatch):
    if "skops" in (demo.EXAMPLES / name / "train.py").read_text():
        pytest.importorskip("skl2onnx", reason="pip install 'edge-optimize[sklearn]'")
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    torch = pytest.importorskip("torch", reason="pip install 'edge-optimize[all]'")
    torch.set_num_threads(1)  # what is this small only waits for a second thread where others compute too
    training = importlib.import_module(f"optimize.examples.{name}.train")
    for often in {"EPOCHS", "STEPS"} & set(vars(training)):
        monkeypatch.setattr(training, often, 1)
    folder = tmp_path / name
    shutil.copytree(demo.EXAMPLES / name, folder)
    training.train(folder / training.MADE)
    asked = recipe.load(folder / "recipe.toml")
    original = sources.load(asked.model_spec())
    _, material = read_data(
        asked.data_place(), None, asked.metric(), asked.data.better, original.inputs, Progress(1, silent=True)
    )
    prints = {split: set(facts.profile.prints) for split, facts in material.facts.items()}
    assert not prints["calibrate"] & (prints["validate"] | prints["test"])
    feeds, labels = material.splits.test.take(2_000)
    with contextlib.closing(original.open()) as session:
        outputs = session.run(feeds)
    metric = material.metric
    assert np.isfinite(metric.finish(Rows.of(metric.update(outputs, labels)).values))
    assert {one.role for one in plan.expand(asked, host.facts())} == {"plain", "vendor", "steps"}


@pytest.mark.parametrize("name", WHOLE)
def test_an_example_runs_and_ends_above_the_trivial_baseline(name, tmp_path, monkeypatch):
    pytest.importorskip("skl2onnx", reason="pip install 'edge-optimize[sklearn]'")
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(cli, ["demo", name, "--out", str(tmp_path / "out")])
    last = done.output.strip().splitlines()[-1]
    assert done.exit_code == 0, done.output[-2000:]
    assert last.startswith(f"{name}: ") and ", better than the trivial baseline's " in last
    assert (tmp_path / "out" / "bundle" / "manifest.json").exists()
    assert (tmp_path / "out" / "example" / "README.md").exists()
    assert (tmp_path / "out" / "thresholds.json").exists() == (name == "cancer")  # what its show.py writes


def test_what_a_chosen_file_takes_is_said_wherever_the_bundle_keeps_it(finished):
    from optimize.examples.wine.show import show

    report, place = finished[0], finished[1]
    said = show(place.parent)
    assert f"{report.chosen['onnxruntime']}: " in said.splitlines()[1] and "bytes are weights" in said
