"""Pruned until a latency: the search by itself in a world whose times are known, and a run on a real engine."""

import importlib
from dataclasses import replace

import known_world
import numpy as np
import pytest
import torch
from torch import nn

from optimize import lock, pipeline, plan, recipe, rounds, slimming, stages
from optimize.build import Builder, Built
from optimize.deadline import Deadline
from optimize.latencies import Latency, widths
from optimize.models import TorchModel
from optimize.preflight import preflight
from optimize.progress import Progress
from optimize.pruning import layers
from optimize.slimming import Slimming
from optimize.steps.prune_channels import Step
from optimize.subject import prepare
from runtime import cache, host
from runtime.bundle import sha256

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 5),
    )
"""


@pytest.fixture
def world(torch_context):
    """A search whose engine takes `rest` milliseconds and `scale` times what the table says of the layers."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.Flatten(2),
        nn.AvgPool1d(100), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip
    given = TorchModel(module, torch_context.inputs)

    def work(layer):
        takes, gives = widths(layer)
        return takes * gives / 1000

    def ms(layer):
        corners = [(1, 1), (1, widths(layer)[1]), (widths(layer)[0], 1), widths(layer)]
        a, b, c, d = (takes * gives / 1000 for takes, gives in corners)
        return Latency((1, widths(layer)[0]), (1, widths(layer)[1]), ((a, b), (c, d)))

    def search(until, scale=1.0, rest=0.5, deadline=None, before=(), **settings):
        def engine(module):
            return rest + scale * sum(map(work, layers(module).values()))

        def table(whole, given, least):
            changed = {n: one for n, one in layers(given.module).items()
                       if widths(one) != widths(least.module.get_submodule(n))}  # fmt: skip
            return engine(given.module), {name: ms(layer) for name, layer in changed.items()}

        step = Step(until=f"{until}x faster on there", **{"multiple": 1, **settings})
        said = ["prune_channels left 8 alone: it gives the outputs"]
        return known_world.searched(Slimming, step, given, engine, table, torch_context, before, deadline, said)

    return search


def measured_in(notes):
    return [float(note.split("predicted, ")[1].split("x")[0]) for note in notes if "measured" in note]


@pytest.mark.parametrize(("until", "scale"), [(1.5, 1.0), (1.5, 0.5), (2.0, 2.0)])
def test_a_wrong_scale_of_the_table_is_set_right_by_what_is_measured(world, until, scale):
    found = world(until, scale)
    seen = measured_in(found["notes"])
    assert until <= seen[-1] <= rounds.BEYOND * until and 1 <= len(seen) <= 3
    assert found["notes"][len(seen)] == f"round {len(seen)} is taken"
    assert found["notes"][-1] == "left 8 alone: it gives the outputs"
    assert found["widths"] and all(1 <= kept < 32 for kept in found["widths"].values())
    if scale == 1.0:
        assert found["notes"][0].startswith(f"round 1: {seen[0]:.2f}x predicted")


def test_a_factor_out_of_reach_gives_the_closest_and_says_so(world):
    found = world(50)
    assert found["widths"] == {"0": 1, "2": 1, "4": 1}
    assert "round 1 is taken, the closest: all that may go is gone" in found["notes"]


def test_where_channels_go_in_large_steps_the_nearest_beyond_is_taken(world):
    found = world(1.2, scale=3.0, multiple=16)
    seen = measured_in(found["notes"])
    assert seen == [2.33, 1.42] and found["widths"] == {"0": 16}
    assert found["notes"][2].startswith("round 2 is taken, the closest: nothing nearer was found (each layer keeps")


def test_what_was_removed_before_counts(world):
    found = world(1.5, before=(Step(widths={"0": 8, "2": 8}),))
    assert found["widths"] == {} and "by what was removed before, so that no channel goes" in found["notes"][0]
    found = world(1.8, before=(Step(widths={"0": 28}),))
    assert found["widths"] and 1.8 <= measured_in(found["notes"])[-1] <= 1.98


def test_when_the_time_is_over_no_further_round_begins(world):
    late = Deadline(1.0, iter(range(0, 1000, 100)).__next__)
    assert len(measured_in(world(1.5, scale=0.3, deadline=late)["notes"])) == 1


@pytest.fixture
def asked(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.py").write_text(MODEL)
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "data.npz", x=random.standard_normal((60, 3, 16, 16)).astype(np.float32), y=random.integers(0, 5, 60)
    )
    (tmp_path / "recipe.toml").write_text(
        '[model]\nentry = "model.py:build"\n[data]\npath = "data.npz"\n[constraints]\nmax_drop = 0.99\n'
        '[measure]\nbudget = 0.1\n[targets.onnxruntime]\n'
        '[[steps]]\nuse = "prune_channels"\nuntil = "1.5x faster on onnxruntime"\n'
        '[[steps]]\nuse = "recover"\nepochs = 1\nbatch = 16\n'
    )  # fmt: skip
    return recipe.load(tmp_path / "recipe.toml")


def builder(subject, folder):
    return Builder(subject, cache.Cache(cache.default_folder()), {}, folder, folder / "log", Progress(1, silent=True))


def test_a_run_prunes_until_it_is_so_much_faster_and_its_lock_does_the_same_again(asked, tmp_path, monkeypatch):
    measuring = importlib.import_module("runtime.measure")
    monkeypatch.setattr(measuring, "MIN_ROUNDS", 2)
    monkeypatch.setattr(stages, "SCREENING_ROUNDS", 2)
    monkeypatch.setattr(slimming, "ROUNDS", 2)
    told = preflight(str(tmp_path / "recipe.toml"))
    assert "prune_channels, recover" in told["candidates"]["onnxruntime-pruned-recovered"]["steps"]

    report = pipeline.run(asked, out=tmp_path / "out", silent=True)
    row = report.row("onnxruntime-pruned-recovered")
    assert row.status == "measured", row.reason
    found = row.steps[0]["widths"]
    assert found and row.made[0].parameters < report.original.made[0].parameters
    notes = [note for note in report.notes if note.startswith('prune_channels until "1.5x faster on onnxruntime": ')]
    seen = measured_in(notes)
    assert seen and all("predicted" in note for note in notes[: len(seen)]) and "is taken" in notes[len(seen)]
    assert any("left 7 alone: it gives the outputs" in note for note in notes)

    # asked again, nothing is measured again
    silent = Progress(1, silent=True)
    subject = prepare(asked, silent, tmp_path / "log")
    same = Slimming(
        asked.steps[0], (), plan.role_of(plan.expand(asked, host.facts()), "onnxruntime", "plain"), subject, None,
        tmp_path / "log", silent, Deadline(), 0.1,
    )  # fmt: skip
    monkeypatch.setattr(Slimming, "_searched", lambda self: pytest.fail("searched again"))
    made = builder(subject, tmp_path)
    made._common["versions"] = report.made_with
    again = replace(same, builder=made).found()
    assert again["widths"] == found and again["notes"][-1].endswith("the widths were found by an earlier run")

    with pytest.raises(pytest.fail.Exception, match="searched again"):  # --redo
        replace(same, builder=made, anew=True).found()

    # the lock has the widths, and they make the same bytes, with nothing out of the cache
    held = lock.Lock.model_validate_json((tmp_path / "out" / lock.FILE).read_text())
    assert held.widths == [found]
    held = held.model_copy(update={"chosen": {"onnxruntime": row.name}})
    pinned = lock.Pinned(tmp_path / lock.FILE, held, asked)
    subject = replace(subject, plans=pinned.plans(subject))
    candidates = {one.name: one for one in pinned.candidates(subject)}
    with lock.empty_cache(tmp_path / "empty"):
        anew = builder(subject, tmp_path).build(candidates[row.name])
    assert isinstance(anew, Built) and sha256(anew.model.path) == held.candidates[row.name].onnx["model"]
