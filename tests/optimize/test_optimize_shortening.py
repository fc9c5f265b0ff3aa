"""Blocks removed until a latency: the search by itself in a world whose times are known, and a run on a real engine."""

import importlib

import known_world
import numpy as np
import pytest
import torch
from test_optimize_slimming import measured_in
from torch import nn

from optimize import lock, pipeline, recipe, rounds, shortening, stages
from optimize.deadline import Deadline
from optimize.models import TorchModel
from optimize.shortening import Shortening
from optimize.steps.prune_blocks import Step
from optimize.steps.prune_channels import Step as Channels
from runtime.intervals import Ratio

MODEL = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + 0.1 * self.conv(x))


def build():
    torch.manual_seed(0)
    blocks = [Block(32) for _ in range(8)]
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.Sequential(*blocks), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)
    )
"""
NAMES = [f"0.{i}" for i in range(8)]


class Weighed(nn.Module):
    """A block that changes its input by so much."""

    def __init__(self, change):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(change * torch.eye(3)[:, :, None, None])

    def forward(self, x):
        return x + self.layer(x)


@pytest.fixture
def world(torch_context):
    """A search whose engine takes `rest` milliseconds and `scale` times those of the blocks that are left."""
    changes = [0.30, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.20]

    def search(until, scale=1.0, rest=1.0, ms=(1.0,) * 8, deadline=None, before=(), **settings):
        blocks = nn.Sequential(*map(Weighed, changes))
        given = TorchModel(nn.Sequential(blocks, nn.Flatten()).eval(), torch_context.inputs)
        takes = dict(zip(NAMES, ms, strict=True))

        def engine(module):
            left = [name for name in NAMES if isinstance(module.get_submodule(name), Weighed)]
            return rest + scale * sum(takes[name] for name in left)

        def table(whole, model, names):
            assert all(isinstance(model.module.get_submodule(name), Weighed) for name in names)
            return engine(given.module), {name: takes[name] for name in names}

        step = Step(until=f"{until}x faster on there", **settings)
        return known_world.searched(Shortening, step, given, engine, table, torch_context, before, deadline)

    return search


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_as_many_blocks_go_as_it_takes_those_first_that_matter_least(world, scale):
    found = world(1.5, scale, rest=scale)
    assert found["blocks"] == ["0.1", "0.2", "0.3"]  # 9 of the 9 milliseconds' scale, 6 of them left
    seen = measured_in(found["notes"])
    assert seen[-1] == 1.5 and found["notes"][-1] == f"round {len(seen)} is taken"
    if scale == 1.0:
        assert found["notes"][0].startswith("round 1: 1.80x predicted, 1.80x")  # it aims 3 % higher


def test_of_two_blocks_alike_the_dearer_one_goes(world):
    ms = (1.0, 0.1, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    assert world(1.4, ms=ms)["blocks"][0] == "0.2"


def test_where_the_nearest_is_beyond_it_says_so(world):
    found = world(1.02, ms=(4.0,) * 8, include=("0.1", "0.2"))
    assert found["blocks"] == ["0.1"]
    assert found["notes"][-1].endswith("is taken, the closest: nothing nearer was found (a block goes whole, or stays)")


def test_a_factor_out_of_reach_takes_all_that_may_go(world):
    found = world(50, exclude=("0.0",))
    assert sorted(found["blocks"]) == NAMES[1:]
    assert found["notes"][-1] == "round 1 is taken, the closest: all that may go is gone"


def test_what_was_removed_before_counts(world):
    found = world(1.2, before=(Step(blocks=("0.1", "0.2")),))
    assert found == {"blocks": [], "notes": ["1.29x by what was removed before, so that no block goes"]}
    found = world(1.8, before=(Step(blocks=("0.6",)),))
    assert found["blocks"] == ["0.1", "0.2", "0.3"]


def test_when_the_time_is_over_no_further_round_begins(world):
    late = Deadline(1.0, iter(range(0, 1000, 100)).__next__)
    assert len(measured_in(world(1.5, scale=0.2, deadline=late)["notes"])) == 1


def test_a_run_removes_blocks_until_it_is_so_much_faster(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.py").write_text(MODEL)
    random = np.random.default_rng(0)
    x = random.standard_normal((60, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=random.integers(0, 5, 60))
    (tmp_path / "recipe.toml").write_text(
        '[model]\nentry = "model.py:build"\n[data]\npath = "data.npz"\n[constraints]\nmax_drop = 0.99\n'
        "[measure]\nbudget = 0.1\n[targets.onnxruntime]\n"
        '[[steps]]\nuse = "prune_blocks"\nuntil = "1.5x faster on onnxruntime"\n'
    )
    monkeypatch.setattr(importlib.import_module("runtime.measure"), "MIN_ROUNDS", 2)
    monkeypatch.setattr(stages, "SCREENING_ROUNDS", 2)
    monkeypatch.setattr(shortening, "ROUNDS", 2)
    report = pipeline.run(recipe.load(tmp_path / "recipe.toml"), out=tmp_path / "out", silent=True)
    row = report.row("onnxruntime-pruned")
    assert row.status == "measured", row.reason
    found = row.steps[0]["blocks"]
    assert found and row.made[0].parameters < report.original.made[0].parameters
    notes = [note for note in report.notes if note.startswith('prune_blocks until "1.5x faster on onnxruntime": ')]
    seen = measured_in(notes)
    assert 1 <= len(seen) <= 2 and "is taken" in notes[len(seen)]
    held = lock.Lock.model_validate_json((tmp_path / "out" / lock.FILE).read_text())
    assert held.widths == [found]


def test_what_saves_more_than_the_table_says_sets_its_scale_right():
    tried = rounds.Try(["a"], 1.0, 1.2, Ratio(2.0, 1.9, 2.1, 5))
    assert rounds.scaled(1.0, [tried], 1.0, 4.0) == 2.0  # 2 of 4 ms were saved, 1 by the table
    assert rounds.scaled(0.1, [tried], 1.0, 4.0) == pytest.approx(0.3)  # by no more than three times a round


def test_channels_and_blocks_may_both_be_pruned_until_a_latency():
    assert (Step.finds, Channels.finds) == ("blocks", "widths")
    assert Step(until="1.5x faster on openvino").amount() == "-blocks1.5x"
