from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from optimize import metrics
from optimize.collapse import cause_of, diagnosed
from optimize.data import from_arrays
from optimize.models import OnnxModel, write_onnx
from optimize.report import Accuracy, Row
from optimize.steps.export import Step as Export
from optimize.steps.quantize_static import Step as Static
from targets import Scheme

SCHEME = Scheme(ops=("Conv", "Gemm", "MatMul", "Add"))


@pytest.fixture(scope="module")
def exported(learned, tmp_path_factory):
    from conftest import bright

    from optimize.steps import Context

    x, y = bright(160)
    splits = from_arrays({name: {"image": x, "y": y} for name in ("calibrate", "validate", "test")}, "here")
    folder = tmp_path_factory.mktemp("collapse")
    return Export()(learned, Context(splits.calibrate, {"batch": {"min": 1, "best": 1, "max": 4}}, SCHEME, folder))


def subject(change=lambda x: x, samples=160):
    """Data whose calibrate went through `change`."""
    from conftest import bright

    x, y = bright(samples)
    parts = {name: {"image": x, "y": y} for name in ("validate", "test")}
    parts["calibrate"] = {"image": np.ascontiguousarray(change(x), np.float32), "y": y}
    return SimpleNamespace(calls=from_arrays(parts, "here"), metric=metrics.get("accuracy"), classes=5, own_labels=True)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda x: x[:, ::-1], "its colours are in the other order"),
        (lambda x: x / 255, "its values are 255 times too small"),
        (lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape), "it was reshaped where it should have been transposed"),
    ],
)  # fmt: skip
def test_calibrate_that_was_treated_otherwise_is_told_by_what_takes_it_back(change, words, exported):
    found = cause_of(subject(change), exported, exported, 1.0)
    assert words in found and "the model in float, too, has only" in found


def test_other_labels_are_no_change_of_the_data(exported):
    one = subject()
    parts = {split.name: split.take(160) for split in one.calls}
    shuffled = from_arrays(
        {name: {**f, "y": (y + 1) % 5 if name == "calibrate" else y} for name, (f, y) in parts.items()}, "here"
    )
    assert "other data, or other labels" in cause_of(
        SimpleNamespace(**{**vars(one), "calls": shuffled}), exported, exported, 1.0
    )


@pytest.fixture
def ruined(exported, make_context, tmp_path) -> OnnxModel:
    """Rounded, and one layer of it with an input whose scale is far off."""
    from conftest import bright

    rounded = Static(bias_correction="none")(exported, make_context({"image": bright(64)[0]}, scheme=SCHEME))
    proto = onnx.load(rounded.path)
    (gemm,) = [node for node in proto.graph.node if node.op_type == "Gemm"]
    (back,) = [node for node in proto.graph.node if node.output[0] == gemm.input[0]]
    for tensor in proto.graph.initializer:
        if tensor.name == back.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e4), tensor.name))
    return write_onnx(proto, tmp_path / "ruined.onnx")


def test_the_layer_that_ruins_alone_is_named(exported, ruined):
    found = cause_of(subject(), exported, ruined, 1.0)
    assert "(Gemm) alone does it: leave it in float, exclude = ['" in found


@dataclass
class Known:
    before: OnnxModel

    def unrounded(self, candidate):
        return self.before


def accuracy(value):
    return Accuracy(metric="accuracy", value=value, samples=160)


def test_only_what_is_near_chance_is_looked_at(exported, ruined):
    rows = {
        name: Row(name=name, engine="onnxruntime", status="built, not measured", validate_=accuracy(value))
        for name, value in (("bad", 0.21), ("poor", 0.6))
    }
    candidates = [SimpleNamespace(name=name) for name in rows]
    built = {name: SimpleNamespace(model=ruined) for name in rows}
    original = Row(name="original", engine="torch", status="measured", validate_=accuracy(0.99))
    (found,) = diagnosed(subject(), Known(exported), candidates, built, rows, original)
    assert found.startswith("bad collapsed: its accuracy of 0.21 is near chance; '")
    poor = original.model_copy(update={"validate_": accuracy(0.3)})
    assert diagnosed(subject(), Known(exported), candidates, built, rows, poor) == []
    blind = SimpleNamespace(**{**vars(subject()), "classes": None})
    assert diagnosed(blind, Known(exported), candidates, built, rows, original) == []
