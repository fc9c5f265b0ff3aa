"""By which samples is chosen."""

import numpy as np
import pytest

from optimize.progress import Progress
from optimize.recipe import from_table
from optimize.subject import FEW, prepare
from runtime.errors import InputError

DATA = """
import numpy as np


def splits():
    random = np.random.default_rng(0)
    x = random.standard_normal(({calibrate} + {validate} + 20, 3, 8, 8))  # float64, which the model does not take
    y = random.integers(0, 5, len(x))
    ends = {calibrate}, {calibrate} + {validate}
    return {{
        "calibrate": (x[: ends[0]], y[: ends[0]]), "validate": (x[ends[0] : ends[1]], y[ends[0] : ends[1]]),
        "test": (x[ends[1] :], y[ends[1] :]),
    }}
"""
MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


def prepared(folder, steps, calibrate=300, validate=30, **tables):
    (folder / "data.py").write_text(DATA.format(calibrate=calibrate, validate=validate))
    (folder / "model.py").write_text(MODEL)
    table = {
        "model": {"entry": "model.py:build"}, "data": {"entry": "data.py:splits"}, "steps": steps,
        "targets": {"onnxruntime": {}}, **tables,
    }  # fmt: skip
    return prepare(from_table(table, folder), Progress(1, silent=True), None)


def images(split):
    found = np.concatenate([next(iter(feeds.values())) for feeds, _ in split.batches()])
    assert found.dtype == np.float32
    return found


@pytest.mark.parametrize(("calibrate", "more"), [(300, FEW - 30), (50, 50)])
def test_where_validate_is_small_calibrate_is_looked_at_too(tmp_path, calibrate, more):
    subject = prepared(tmp_path, [{"use": "quantize_static"}], calibrate)
    for _ in range(2):  # as often as it is asked for
        found = images(subject.choice)
        assert len(found) == subject.choice_samples == 30 + more
        np.testing.assert_array_equal(found[:30], images(subject.splits.validate))
        np.testing.assert_array_equal(found[30:], images(subject.splits.calibrate)[:more])
    said = [note for note in subject.notes if "the choice went by" in note]
    assert len(said) == 1 and said[0].startswith(
        f"validate has 30 samples, which tell little: the choice went by {more}"
    )
    assert len(images(subject.splits.test)) == 20  # which nothing that chooses has seen


def test_samples_that_a_step_trained_on_choose_nothing(tmp_path):
    subject = prepared(tmp_path, [{"use": "recover", "epochs": 1}, {"use": "quantize_static"}])
    assert subject.choice is subject.splits.validate and subject.choice_samples == 30
    assert not any("the choice went by" in note for note in subject.notes)


def test_a_validate_that_is_large_enough_chooses_alone(tmp_path):
    subject = prepared(tmp_path, [{"use": "quantize_static"}], validate=FEW)
    assert subject.choice is subject.splits.validate and subject.choice_samples == FEW


def test_a_quick_run_is_judged_by_a_part_of_validate_and_of_test_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("optimize.subject.QUICK", 15)
    subject = prepared(tmp_path, "auto", validate=FEW, search={"quick": True})
    assert len(images(subject.choice)) == subject.choice_samples == 15 == subject.test_samples
    assert len(images(subject.splits.test)) == 15 and len(images(subject.splits.validate)) == FEW
    assert subject.facts.splits["test"].samples == 20  # what the data has
    assert [note for note in subject.notes if note.startswith("a quick run: judged by 15 samples of validate and 15 ")]


def onnx_file(path, nodes, constants=()):
    """A file `x` (batch, 4) -> `y`, whose axis is open in name at least."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    graph = helper.make_graph(
        [helper.make_node(*node, **more) for node, more in nodes], "g", ends[:1], ends[1:], weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


BAKED = {
    "fails": ([(("Reshape", ["x", "shape"], ["r"]), {}), (("Exp", ["r"], ["y"]), {})], {"shape": np.array([1, 4])}),
    "one row": (
        [(("Reshape", ["x", "shape"], ["r"]), {}), (("Slice", ["r", "from", "to", "axis"], ["y"]), {})],
        {"shape": np.array([1, -1]), "from": np.array([0]), "to": np.array([4]), "axis": np.array([1])},
    ),
    "neighbours": (
        [(("ReduceMean", ["x", "axes"], ["m"]), {}), (("Sub", ["x", "m"], ["y"]), {})], {"axes": np.array([0])},
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("fails", r"batch is fixed inside: it runs with 1, not with 16: .*\[model.inputs.NAME\] shape = \[1, ...\]"),
        ("one row", r"batch is fixed inside: 'y' has 1 rows for 16 samples"),
        ("neighbours", r"batch is fixed inside: a sample's 'y' differs by .* in a batch of 16"),
    ],
)
def test_a_batch_that_is_open_in_name_only_is_found_before_any_work_and_can_be_fixed(tmp_path, kind, said):
    onnx_file(tmp_path / "model.onnx", *BAKED[kind])
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=x)
    table = {"model": {"path": "model.onnx"}, "data": {"path": "data.npz"}, "targets": {"onnxruntime": {}}}
    with pytest.raises(InputError, match=said):
        prepare(from_table(table, tmp_path), Progress(1, silent=True), None)
    table["model"]["inputs"] = {"x": {"shape": [1, 4]}}
    subject = prepare(from_table(table, tmp_path), Progress(1, silent=True), None)
    assert subject.fixed and subject.batch == 1 and subject.inputs[0].shape == (1, 4)


def test_a_comparison_goes_a_sample_a_call_where_the_batch_is_open_in_name_only(tmp_path):
    from optimize.foreign import evaluate_all

    place = onnx_file(tmp_path / "model.onnx", *BAKED["fails"])
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.exp(x))
    found = evaluate_all([str(place)] * 2, str(tmp_path / "data.npz"), "mse", None, None, "1pp", None, False)
    assert any("its batch is fixed inside" in note and "one sample a call" in note for note in found["notes"])
    first, second = found["models"].values()
    assert first["mse"] < 1e-10 and second["drop"] == 0


def test_a_network_that_is_another_each_time_is_refused(tmp_path, monkeypatch):
    """Each process would have one of its own, and what is exported would be none that was judged."""
    monkeypatch.setitem(globals(), "MODEL", MODEL.replace("    torch.manual_seed(0)\n", ""))
    with pytest.raises(InputError, match=r"model\.py:build gives other weights each time it is called.*--weights FILE"):
        prepared(tmp_path, [{"use": "quantize_static"}])
