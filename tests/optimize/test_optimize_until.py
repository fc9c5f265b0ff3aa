"""Goals that a run must find first: what is refused, what falls out, and what takes their place."""

from dataclasses import replace

import numpy as np
import pytest

import targets.onnxruntime
from optimize import recipe, until
from optimize.build import Builder
from optimize.deadline import Deadline
from optimize.progress import Progress
from optimize.slimming import Slimming
from optimize.steps.prune_blocks import Step as Blocks
from optimize.steps.prune_channels import Step as Channels
from optimize.subject import prepare
from runtime import cache, host
from runtime.errors import InputError, WorkError

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.py").write_text(MODEL)
    random = np.random.default_rng(0)
    x = random.standard_normal((60, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=random.integers(0, 5, 60))
    (tmp_path / "recipe.toml").write_text(
        '[model]\nentry = "model.py:build"\n[data]\npath = "data.npz"\n[targets.onnxruntime]\n'
        '[[steps]]\nuse = "prune_channels"\nuntil = "1.5x faster on onnxruntime"\n'
    )
    return recipe.load(tmp_path / "recipe.toml")


@pytest.fixture
def given(asked, tmp_path):
    """What `resolved` takes behind the recipe."""
    silent, log = Progress(1, silent=True), tmp_path / "log"
    subject = prepare(asked, silent, log)
    builder = Builder(subject, cache.Cache(cache.default_folder()), {}, tmp_path, log, silent)
    return host.facts(), subject, builder, log, silent, Deadline()


def test_several_processes_would_slow_each_other(asked, given, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match=r"prune_channels .*several processes at once cannot: .*give accelerate launch the widths that"
    ):
        until.resolved(asked, *given)
    with pytest.raises(InputError, match=r"prune_blocks .*give accelerate launch the blocks that"):
        until.check(((Blocks(until="2x faster on openvino"),),))


def test_a_search_that_fails_costs_its_own_candidates_alone(asked, given, monkeypatch):
    def fails(self):
        raise WorkError("an engine failed")

    monkeypatch.setattr(Slimming, "_searched", fails)
    unfound, notes = until.resolved(asked, *given)
    assert notes == ['prune_channels until "1.5x faster on onnxruntime": an engine failed']
    assert until.found(unfound.plans) == [None]
    skipping = asked.model_copy(update={"search": asked.search.model_copy(update={"skip": ("*pruned*",)})})
    assert until.resolved(skipping, *given) == (unfound, [])


def test_a_target_that_cannot_be_measured_here_is_refused(asked, given, monkeypatch):
    record = targets.onnxruntime.TARGET
    monkeypatch.setattr(targets.onnxruntime, "TARGET", replace(record, why_not=lambda: "no such library"))
    with pytest.raises(InputError, match=r'until = "1.5x .*" cannot be measured here: no such library'):
        until.resolved(asked, *given)


def test_what_was_found_takes_the_place_of_what_is_to_be_found_in_order():
    open_, done = Channels(until="2x faster on openvino"), Channels(until="3x faster on openvino", widths={"a": 8})
    blocks = Blocks(until="1.2x faster on openvino")
    plans = ((open_, Channels(ratio=0.5), done), (blocks, Blocks(count=1), open_))
    assert until.found(plans) == [None, {"a": 8}, None, None]
    filled = until.with_found(plans, [{"b": 4}, ["c", "d"], {"e": 2}])
    assert until.found(filled) == [{"b": 4}, {"a": 8}, ["c", "d"], {"e": 2}]
    assert filled[0][1] == plans[0][1] and filled[1][0].blocks == ("c", "d") and filled[1][1] == plans[1][1]
