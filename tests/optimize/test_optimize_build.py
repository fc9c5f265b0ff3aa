from dataclasses import replace
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import targets
from optimize import build
from optimize.build import Builder, Built, Lost, batch_of
from optimize.data import NAMES, from_arrays
from optimize.models import OnnxModel, read_onnx, write_onnx
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.steps import Context, Settings
from optimize.steps.quantize_static import Step as Quantize
from optimize.steps.simplify import Step as Simplify
from optimize.verify import judge
from runtime import contender, host
from runtime.contender import Worker
from runtime.engines import onnxruntime as engine
from runtime.errors import EngineError, InputError, StepError
from runtime.tensors import Specs, TensorSpec

AXES = {"batch": {"min": 1, "best": 1, "max": 4}}


@pytest.fixture
def builder(tiny_onnx, tiny_data, tmp_path):
    splits = from_arrays({name: {"image": tiny_data[0], "y": tiny_data[1]} for name in NAMES}, "here")
    return Builder(read_onnx(tiny_onnx), splits, AXES, tmp_path, tmp_path / "log.txt", Progress(1, silent=True))


def candidate(target="onnxruntime", role="plain", steps=(), why_not=None):
    found = targets.get(target)
    scheme = found.scheme("host", host.facts())
    return Candidate(f"{target}-{role}", role, found, (Simplify(), *steps), found.plain, scheme, why_not)


class Scaled(Settings):
    """A step that multiplies every weight, badly enough for a test."""

    label: ClassVar[str] = "scaled"
    factor: float = 1.0

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        proto = onnx.load(model.path)
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * self.factor, tensor.name))
        return write_onnx(proto, context.folder / "model.onnx")


def test_plain_is_built_and_runs_in_a_process_of_its_own(builder, tiny_onnx, tiny_data):
    found = builder.build(candidate())
    assert isinstance(found, Built)
    assert found.precision.startswith("f32 ") and [one.use for one in found.made] == ["simplify"]
    assert found.size_bytes == sum(path.stat().st_size for path in found.files.values()) > 0
    feeds = {"image": tiny_data[0][:3]}
    with Worker.start(found.contender, feeds) as worker:
        np.testing.assert_allclose(
            worker.outputs["output"], judge(read_onnx(tiny_onnx)).run(feeds)["output"], rtol=1e-3, atol=1e-5
        )


def test_quantized_says_its_precision_and_its_noise(builder):
    found = builder.build(candidate(role="steps", steps=(Quantize(),)))
    assert "int8" in found.precision
    assert [one.use for one in found.made] == ["simplify", "quantize_static"]
    assert 10 < found.made[-1].signal_to_noise_db < 80
    assert found.made[-1].notes == []


def test_a_quantize_step_that_fails_marks_its_candidates_only(builder):
    broken = Quantize(exclude=("*",))
    first = builder.build(candidate("onnxruntime", "steps", (broken,)))
    second = builder.build(candidate("openvino", "steps", (broken,)))
    third = builder.build(candidate("reference", "steps", (broken, Scaled())))
    for lost in (first, second, third):
        assert isinstance(lost, Lost) and lost.status == "failed"
        assert lost.reason.startswith("the step 'quantize_static' after simplify: there is nothing to quantize")
    assert isinstance(builder.build(candidate(why_not="not here")), Built)


def test_a_step_that_fails_for_the_plain_model_ends_the_work(builder, monkeypatch):
    def fail(self, model, context):
        raise StepError("no such node")

    monkeypatch.setattr(Simplify, "__call__", fail)
    with pytest.raises(StepError, match="the step 'simplify': no such node"):
        builder.build(candidate())


def test_common_steps_are_done_once_and_schemes_are_kept_apart(builder, monkeypatch):
    done = []
    for kind in (Simplify, Quantize):
        true = kind.__call__

        def counted(self, model, context, true=true, kind=kind):
            done.append(kind.__module__.rpartition(".")[2])
            return true(self, model, context)

        monkeypatch.setattr(kind, "__call__", counted)
    made = {}
    for name in ("onnxruntime", "tensorrt"):
        for role, steps in (("plain", ()), ("vendor", ()), ("steps", (Quantize(),)), ("again", (Quantize(),))):
            made[name, role] = builder.build(candidate(name, role, steps, why_not="not here")).model.path
    assert sorted(done) == ["quantize_static", "quantize_static", "simplify"]
    assert made["onnxruntime", "plain"] == made["tensorrt", "vendor"]
    assert made["onnxruntime", "steps"] == made["onnxruntime", "again"] != made["tensorrt", "steps"]


def test_other_settings_make_another_model(builder):
    first, second = (
        builder.build(candidate("onnxruntime", "steps", (Scaled(factor=factor),), "not here")) for factor in (1.0, 1.01)
    )
    assert first.model.path != second.model.path
    assert first.made[-1].signal_to_noise_db != second.made[-1].signal_to_noise_db


def test_what_cannot_be_built_here_is_judged_by_its_file(builder, tiny_data):
    found = builder.build(candidate("tensorrt", "steps", (Quantize(),), "no GPU: buy one"))
    assert dict(found.files) == {} and found.precision == "" and found.size_bytes == found.model.path.stat().st_size
    feeds = {"image": tiny_data[0][:2]}
    with Worker.start(found.contender, feeds) as worker:
        np.testing.assert_array_equal(worker.outputs["output"], judge(found.model).run(feeds)["output"])


class Off:
    """A judge whose answers are another's."""

    def __init__(self, model, change):
        self.session, self.change = judge(model), change

    def run(self, feeds):
        return {name: self.change(value) for name, value in self.session.run(feeds).items()}


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_an_engine_that_differs_from_its_file_is_wrong(builder, monkeypatch, factor):
    monkeypatch.setattr(build, "judge", lambda model: Off(model, lambda value: value * factor))
    lost = builder.build(candidate())
    assert lost.status == "wrong" and "its output 'output' differs from its own ONNX file by" in lost.reason
    assert "allowed 0.001" in lost.reason


def test_the_tolerance_is_that_of_the_engine_for_the_format_that_runs(builder, monkeypatch):
    monkeypatch.setattr(build, "judge", lambda model: Off(model, lambda value: value * 1.01))
    monkeypatch.setitem(engine.TOLERANCE, "f32", 0.1)
    assert isinstance(builder.build(candidate()), Built)


def test_nan_of_an_engine_is_wrong_and_named():
    wanted = {"output": np.ones(4, np.float32)}
    lost = build._disagrees({"output": np.full(4, np.nan, np.float32)}, wanted, 0.1)
    assert lost == Lost("wrong", "its output 'output' has NaN or infinity where its ONNX file has none")
    assert build._disagrees(wanted, wanted, 0.1) is None


def test_an_engine_that_does_not_compile_is_lost_with_its_reason(builder, monkeypatch):
    def fail(*arguments, **settings):
        raise EngineError("the process ended by signal SIGSEGV")

    monkeypatch.setattr(contender, "call", fail)
    assert builder.build(candidate()) == Lost("failed", "the process ended by signal SIGSEGV")


def test_an_option_that_the_engine_does_not_know_is_an_error_of_the_input(builder):
    broken = replace(candidate(), options={"no_such_option": 1})
    with pytest.raises(InputError, match="no_such_option"):
        builder.build(broken)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_step_whose_result_gives_nan_is_lost(builder, factor):
    lost = builder.build(candidate("onnxruntime", "steps", (Scaled(factor=factor),)))
    assert lost.status == "failed" and "NaN or infinity in the output 'output'" in lost.reason


def test_a_step_that_drowns_the_signal_says_so(builder):
    found = builder.build(candidate("tensorrt", "steps", (Scaled(factor=-1.0),), "not here"))
    assert "little of the signal is left" in found.made[-1].notes[-1]


@pytest.mark.parametrize(
    ("shape", "axes", "wanted", "batch"),
    [
        (("batch", 3), {"batch": {"min": 1, "max": 16}}, 8, 8),
        (("batch", 3), {"batch": {"min": 1, "max": 4}}, 8, 4),
        (("batch", 3), {"batch": {"min": 12, "max": 16}}, 8, 12),
        (("batch", 3), {}, 8, 8),
        ((5, 3), {}, 8, 5),
    ],
)
def test_the_batch_that_a_model_takes(tmp_path, shape, axes, wanted, batch):
    model = OnnxModel(tmp_path, Specs((TensorSpec("x", "float32", shape),), ()))
    assert batch_of(model, axes, wanted) == batch
