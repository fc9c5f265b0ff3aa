"""How much to prune: what a study asks for, by a known function, and in a whole run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from test_optimize_report import accuracy, latency, row

from optimize import automatic, lock, plan, stages, trials
from optimize.deadline import Deadline
from optimize.pipeline import run
from optimize.progress import Progress
from optimize.recipe import from_table
from optimize.stages import Run
from optimize.steps import name_of
from optimize.subject import prepare
from optimize.trials import Outcome, Trial
from runtime import host
from runtime.errors import InputError

FIRST = [Trial(70), Trial(50)]


def known(holds, better="magnitude", overhead=0.15):
    """Trials that hold the limit where `holds` percent are kept, and no less; the other importance is worse by 15 %."""
    asked = []

    def tried(trial):
        asked.append(trial)
        edge = holds - 2 + (0 if trial.importance == better else 15)
        excess = ((100 - trial.kept) / (100 - edge)) ** 3 - 1
        cost = 0.4 * (overhead + (1 - overhead) * trial.kept / 100)
        return Outcome(cost if excess < 1 else None, {"t": excess})

    return asked, tried


@pytest.mark.parametrize(("holds", "better"), [(35, "magnitude"), (60, "taylor"), (80, "magnitude")])
def test_the_share_that_just_holds_is_found_in_few_trials(holds, better):
    asked, tried = known(holds, better)
    found = trials.study(FIRST, 10, 0, tried)
    assert asked[:2] == FIRST and len(asked) == len(set(asked)) == len(found) <= 10
    held = [trial for trial, one in found.items() if one.excess["t"] <= 0]
    assert min(held, key=lambda trial: found[trial].cost) == Trial(holds, better)


def test_the_same_seed_asks_the_same_and_noise_in_the_times_seldom_changes_it():
    one, tried = known(40)
    trials.study(FIRST, 6, 0, tried)
    other, tried = known(40)
    random = np.random.default_rng(0)

    def noisy(trial):
        found = tried(trial)
        return Outcome(found.cost and found.cost * random.normal(1, 0.001), found.excess)

    trials.study(FIRST, 6, 0, noisy)
    assert one == other


def test_a_study_ends_where_nothing_new_is_asked_for_or_no_more_may_be_tried():
    asked, tried = known(55)
    assert len(trials.study(FIRST, 100, 0, tried)) == len(asked) < 30
    asked, tried = known(55)
    found = trials.study(FIRST, 9, 0, lambda trial: tried(trial) if len(asked) < 3 else None)
    assert list(found) == asked and len(asked) == 3


def test_what_cannot_be_made_or_timed_is_no_reason_to_end():
    def tried(trial):
        if trial.kept < 60:
            return Outcome(None, {"t": float("inf")})
        return Outcome(trial.kept / 100, {"t": -0.5})

    found = trials.study(FIRST, 9, 0, tried)
    assert min(trial.kept for trial, one in found.items() if one.cost) == 60


@pytest.mark.parametrize("cut", ["over", "interrupted"])
def test_a_deadline_ends_it_and_keeps_what_there_is(monkeypatch, cut):
    made = []
    deadline = Deadline(100.0, lambda: len(made) * 40.0)

    def make(run, rows, builder, max_drop, more):
        made.append(more[0].name)
        if cut == "interrupted" and len(made) == 2:
            raise KeyboardInterrupt
        return {more[0].name: "built"}, {**rows, more[0].name: judged(more[0].name, 0.001, 1.0)}

    monkeypatch.setattr(trials, "_made", make)
    asked = recipe(time=100)
    first = [one for trial in FIRST for one in trials.candidates(asked, host.facts(), trial)]
    plain = next(one for one in plan.expand(asked, host.facts(), [()]) if one.role == "plain")
    rows = {one.name: judged(one.name, 0.0, 2.0) for one in (plain, *first)}
    progress = SimpleNamespace(say=lambda *_: None)
    before = Run(asked, None, [plain, *first], {}, None, progress, deadline)
    after, found, said = trials.searched(before, rows, None, 0.01)
    assert len(after.candidates) == len(found) == len(rows) + (2 if cut == "over" else 1)
    assert [one.name for one in after.candidates] == list(found)
    assert said[0].startswith(f"{len(found) - 1} trials of how much to prune: the best that holds the limit on every ")
    assert said[0].endswith("; the 100 s of --time were used up" if cut == "over" else "; the search was interrupted")


def judged(name, drop, ms):
    return row(name, validate=accuracy(drop=drop), latency=latency(ms))


def recipe(model="m.py:build", **search):
    place = {"path": model} if model.endswith(".onnx") else {"entry": model}
    table = {"model": place, "data": {"path": "d.npz"}, "steps": "auto", "targets": {"onnxruntime": {"cpu": "vnni"}}}
    return from_table({**table, "search": search}, automatic.Path("/"))


def test_no_more_is_tried_than_today_unless_it_is_asked_for():
    assert trials.most(recipe()) == trials.most(recipe(trials=2)) == trials.most(recipe(trials=0)) == 0
    assert trials.most(recipe(trials=3)) == 3 and trials.most(recipe(time="1h")) == trials.UNASKED
    assert trials.most(recipe(time="1h", trials=2)) == trials.most(recipe(trials=9, quick=True)) == 0
    assert trials.most(recipe("m.onnx", trials=9)) == 0
    with pytest.raises(InputError, match=r"search\.trials"):
        recipe(trials=-1)


MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with a network that was trained a little on scikit-learn's digits, and these."""
    folder = tmp_path_factory.mktemp("digits")
    (folder / "model.py").write_text(MODEL)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).reshape(-1, 1, 8, 8).astype("float32")
    np.savez(folder / "data.npz", x=x, y=y)
    made: dict = {}
    exec(MODEL, made)
    net = made["build"]()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for part in torch.randperm(len(x), generator=torch.Generator().manual_seed(0)).repeat(3).split(64):
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x)[part]), torch.from_numpy(y)[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(net.state_dict(), folder / "weights.pth")
    return folder


def test_a_search_that_was_killed_goes_on_and_a_lock_finds_its_trials(digits, monkeypatch):
    monkeypatch.setattr(automatic, "ENOUGH", 500)
    monkeypatch.setattr(automatic, "MINUTES", 0.01)
    monkeypatch.setattr(stages, "SCREENING_ROUNDS", 1)
    monkeypatch.setattr(trials, "ROUNDS", 1)
    monkeypatch.setattr("runtime.measure.MIN_ROUNDS", 2)
    asked = {
        "data": digits / "data.npz", "weights": digits / "weights.pth", "targets": ["onnxruntime"], "max_drop": "40pp",
        "objective": "size", "silent": True, "out": digits / "out",
        "changes": [
            "search.trials=3", "search.only=['*pruned*']", "measure.budget=0.1", "bundle.golden=0",
            'targets.onnxruntime.cpu="vnni"',
        ],
    }  # fmt: skip

    class Killed(Exception):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(trials, "measure", killed)  # when its steps are made
        with pytest.raises(Killed):
            run(f"{digits / 'model.py'}:build", **asked)
    report = run(f"{digits / 'model.py'}:build", **asked)
    names = [one.name for one in report.candidates if "pruned" in one.name]
    assert names[:2] == ["onnxruntime-pruned70-recovered-int8", "onnxruntime-pruned50-recovered-int8"]
    assert len(names) == 3 and all(made.cached for made in report.row(names[2]).made)
    assert report.row(names[2]).status == "measured" and report.row(names[2]).validate_
    (said,) = [note for note in report.notes if "how much to prune" in note]
    assert said.startswith("3 trials of how much to prune: the best that holds the limit on every target keeps ")

    held = json.loads((digits / "out" / lock.FILE).read_text())
    held["chosen"] = {"onnxruntime": names[2]}
    path = digits / "there" / lock.FILE
    path.parent.mkdir()
    held["folder"] = str((digits / "out" / held["folder"]).resolve())
    path.write_text(json.dumps(held))
    pinned = lock.opened(path, None, digits / "again", {})
    subject = prepare(pinned.asked, Progress(1, silent=True), digits / "log.txt")
    found = {one.name: one for one in pinned.candidates(subject)}
    assert set(found) == {"onnxruntime-fp32", "onnxruntime-default", names[2]}
    steps = [{"use": name_of(step), **step.model_dump(mode="json")} for step in found[names[2]].steps]
    assert steps == report.row(names[2]).steps
