"""A small GRU all the way: recordings of several lengths, states kept by each contender, a bundle that streams."""

import json

import numpy as np
import pytest

import runtime
from optimize import recipe, streams
from optimize.foreign import evaluate_all
from optimize.pipeline import run
from optimize.progress import Progress
from optimize.report import words
from optimize.sources import ModelSpec, load
from optimize.subject import prepare
from runtime.errors import InputError

torch = pytest.importorskip("torch", reason="pip install 'edge-optimize[all]'")

MODEL = """
import torch
from torch import nn

class Gru(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(6, 16), nn.Linear(16, 3)

    def forward(self, x, h):
        h = self.cell(x, h)
        return {"y": self.head(h), "hn": h}

def build():
    torch.manual_seed(0)
    return Gru()

def whole(x):
    \"\"\"(samples, steps, 6) by nn.GRU, which takes the sequence in one piece.\"\"\"
    one, net = build(), nn.GRU(6, 16, batch_first=True)
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(net, part + "_l0").data = getattr(one.cell, part).data
    with torch.no_grad():
        return one.head(net(torch.from_numpy(x))[0]).numpy()
"""
DATA = """
import numpy as np
from recurrent import whole

def splits():
    random = np.random.default_rng(0)
    def split():
        found = []
        for steps in random.integers(15, 30, 14):
            x = random.standard_normal((1, steps, 6)).astype(np.float32)
            found.append((x, whole(x).argmax(-1)))
        return found
    return {name: split() for name in ("calibrate", "validate", "test")}

def flat():
    return {name: [(x[:, 0], y[:, 0]) for x, y in part] for name, part in splits().items()}

def short():
    return {name: [(x, y[:, 0]) for x, y in part] for name, part in splits().items()}

def held():
    return {name: [({"x": x, "h": x[:, :, 0]}, y) for x, y in part] for name, part in splits().items()}
"""
RECIPE = """
[model]
entry = "recurrent.py:build"
states = { h = "hn" }
[model.inputs.x]
shape = ["batch", 6]
[model.inputs.h]
shape = ["batch", 16]
[data]
entry = "data.py:splits"
[targets.onnxruntime]
[measure]
budget = 0.1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model, its data and its recipe."""
    folder = tmp_path_factory.mktemp("gru")
    for name, text in (("recurrent.py", MODEL), ("data.py", DATA), ("recipe.toml", RECIPE)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def report(folder):
    """Of a run of it, whose measurement is short; the bundle lies in `out/bundle`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.measure.MIN_ROUNDS", 2)
        patch.setattr("optimize.stages.SCREENING_ROUNDS", 2)
        return run(folder / "recipe.toml", out=folder / "out", silent=True)


@pytest.fixture(scope="module")
def whole(folder):
    """The outputs of a batch of recordings by a net that takes them in one piece."""
    from optimize.usercode import load_callable

    return load_callable(f"{folder / 'recurrent.py'}:whole", "model")


def test_a_run_judges_whole_recordings_and_times_one_step(report):
    assert report.states == {"h": "hn"}
    assert report.original.accuracy.value == 1.0 and report.original.accuracy.samples == 14
    assert len(report.candidates) == 2
    for row in report.candidates:
        assert row.status == "measured", row.reason
        assert row.accuracy.value > 0.9 and row.latency.p50_ms > 0
    assert "each model's states its own (h); a latency is that of one step" in words.measured_how(report)


def test_the_bundle_streams_what_the_whole_sequence_gives(report, folder, whole):
    x = np.random.default_rng(5).standard_normal((2, 25, 6)).astype(np.float32)
    wanted = whole(x)
    for engine in ("fallback on onnxruntime", "fallback on openvino"):
        with runtime.load(folder / "out" / "bundle", engine=engine, check=True) as model:
            stream = model.stream()
            found = np.stack([stream(x[:, step]) for step in range(25)], 1)
            np.testing.assert_allclose(found, wanted, atol=1e-5)
    with runtime.load(folder / "out" / "bundle", check=True) as model:
        stream = model.stream()
        found = np.stack([stream(x[:, step]) for step in range(25)], 1)
        assert (found.argmax(-1) == wanted.argmax(-1)).mean() > 0.9
    manifest = json.loads((folder / "out" / "bundle" / "manifest.json").read_text())
    assert manifest["states"] == {"h": "hn"}
    assert "stream(x)" in (folder / "out" / "bundle" / "USE.md").read_text()


def test_a_bundle_and_a_file_are_evaluated_by_their_states(report, folder):
    bundle = folder / "out" / "bundle"
    found = evaluate_all(
        [str(bundle), str(bundle / "fallback" / "model.onnx")], f"{folder / 'data.py'}:splits", None, None, None, "1pp",
        None, False,
    )  # fmt: skip
    assert found["streamed"] == "a sample is a recording, states: h"
    assert [row["status"] for row in found["models"].values()] == ["original", "measured"]


@pytest.fixture(scope="module")
def subject(folder, tmp_path_factory):
    """What `prepare` makes of the recipe."""
    return prepare(
        recipe.load(folder / "recipe.toml"), Progress(1, silent=True), tmp_path_factory.mktemp("log") / "log"
    )


def test_steps_see_the_originals_own_states(subject):
    seen = 0
    assert subject.batch == 1 and set(subject.feeds) == {"x", "h"} and subject.feeds["h"].shape == (1, 16)
    module = load(ModelSpec(**{**subject.contender.arguments["spec"], "inputs": subject.inputs})).model
    steps = iter(subject.calls.calibrate.passes())
    for x, labels in subject.splits.calibrate.passes():
        h = torch.zeros(1, 16)
        for step in range(x["x"].shape[1]):
            given, label = next(steps)
            np.testing.assert_allclose(given["h"], h.numpy(), atol=1e-5)
            np.testing.assert_array_equal(given["x"], x["x"][:, step])
            assert label == labels[:, step]
            with torch.no_grad():
                h = module(torch.from_numpy(given["x"]), h)["hn"]
            seen += 1
    assert seen > 200 and next(steps, None) is None
    feeds, labels = subject.calls.calibrate.take(5)
    assert feeds["h"].shape == (5, 16) and labels.shape == (5,)


def test_of_many_steps_some_at_equal_distances_are_kept(subject):
    whole = list(subject.calls.validate.passes())
    some = list(streams.unrolled(subject.contender, subject.splits.validate, None, most=50).passes())
    every = -(-len(whole) // 50)
    assert len(some) == -(-len(whole) // every)
    for (left, _), (right, _) in zip(some, whole[::every], strict=True):
        np.testing.assert_allclose(left["h"], right["h"], atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model.states.h=gone"], r"the state 'h', \[1, 16\], is to come back as 'gone', and it gives y, hn"),
        (["model.states.g=hn"], r"unknown input for a state 'g'"),
        (["model.inputs.h.shape=['batch', 8]"], r"the original does not run on the data"),
        (["model.inputs={}"], r"\[model.states\] needs \[model.inputs\]"),
        (["model.fixed.x=1"], r"\[model.fixed\] is for the inputs of an ONNX file"),
        (["data.entry=data.py:flat"], r"'x' has shape \(1, 6\) in the data: with states a sample is a recording"),
        (["data.entry=data.py:short"], r"labels of shape \(1,\); with states they are one a step"),
        (["data.entry=data.py:held"], r"got inputs \['h', 'x'\]"),
        (["steps=[{use='fold_preprocessing'}]"], r"the step 'fold_preprocessing' does not go with \[model.states\]"),
    ],
)
def test_bad_input_is_refused_before_any_work(folder, tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        prepare(recipe.load(folder / "recipe.toml", changes), Progress(1, silent=True), tmp_path / "log")


def test_a_number_for_an_input_that_no_file_has_is_refused(report, folder):
    place = str(folder / "out" / "bundle" / "fallback" / "model.onnx")
    data = f"{folder / 'data.py'}:splits"
    for states, fixed, said in (
        ([], ["rate=1"], r"unknown input to fix 'rate'"),
        ([], ["rate=fast"], r"--fix takes NAME=NUMBER"),
        (["h"], [], r"--state takes NAME=WORD, each name once; got 'h'"),
        (["h=hn", "h=y"], [], r"each name once; got 'h=y'"),
    ):
        with pytest.raises(InputError, match=said):
            evaluate_all([place], data, None, None, None, "1pp", None, False, states, fixed)
    with pytest.raises(InputError, match=r"does not say the shapes of its states: optimize export it"):
        evaluate_all([f"{folder / 'recurrent.py'}:build"], data, None, None, None, "1pp", None, False, ["h=hn"])
