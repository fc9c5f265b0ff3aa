"""The examples: each has what it needs, runs, and is held against knowing nothing."""

import pytest
from typer.testing import CliRunner

from optimize import demo, recipe
from optimize.cli import cli
from runtime.errors import InputError


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


def test_an_example_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"unknown example 'digit'; did you mean 'digits'\?"):
        demo.demo("digit", tmp_path / "out", 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cancer", "iris"])
def test_an_example_runs_and_ends_above_the_trivial_baseline(name, tmp_path, monkeypatch):
    pytest.importorskip("skl2onnx", reason="pip install 'edge-optimize[sklearn]'")
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(cli, ["demo", name, "--out", str(tmp_path / "out")])
    last = done.output.strip().splitlines()[-1]
    assert done.exit_code == 0, done.output[-2000:]
    assert last.startswith(f"{name}: ") and ", better than the trivial baseline's " in last
    assert (tmp_path / "out" / "bundle" / "manifest.json").exists()
    assert (tmp_path / "out" / "example" / "README.md").exists()
