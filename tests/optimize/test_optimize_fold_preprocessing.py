import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import targets
from optimize.models import TorchModel, framed, read_onnx
from optimize.steps.export import Step as Export
from optimize.steps.fold_preprocessing import Step
from optimize.steps.quantize_static import Step as Static
from optimize.steps.simplify import Step as Simplify
from optimize.verify import judge, signal_to_noise
from runtime import engines, host
from runtime.errors import InputError, StepError
from runtime.tensors import Frame, Specs, TensorSpec
from targets import Scheme

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCHEME = Scheme(ops=("Conv", "Gemm", "MatMul", "Add"))


def pictures(samples=24):
    return np.random.default_rng(0).integers(0, 256, (samples, 12, 10, 3), np.uint8)


def normalized(frames):
    x = (frames.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()


@pytest.fixture
def model(net, make_context):
    inputs = (TensorSpec("image", "float32", ("batch", 3, 12, 10)),)
    return Export()(TorchModel(net, inputs), make_context({"image": normalized(pictures())}))


def context(make_context, feeds=None, **changes):
    return make_context({"image": normalized(pictures()) if feeds is None else feeds}, **changes)


def test_the_camera_s_picture_gives_what_the_prepared_one_gave_at_the_border_too(model, make_context):
    told = context(make_context)
    found = Step(mean=MEAN, std=STD)(model, told)
    (spec,) = found.specs.inputs
    assert str(spec) == "image: uint8[batch, 12, 10, 3]" and found.specs.outputs == model.specs.outputs
    wanted = judge(model).run({"image": normalized(pictures())})["output"]
    got = judge(found).run({"image": pictures()})["output"]
    assert np.abs(got - wanted).max() < 1e-4, "the border is padded with what is zero after the mean"
    assert spec.given(normalized(pictures())).tobytes() == pictures().tobytes()
    assert "the model takes pictures now: image: uint8[batch, 12, 10, 3]" in told.notes


def test_what_is_said_of_the_picture_stays_with_the_file_through_other_steps(model, make_context):
    found = Step(mean=MEAN, std=STD)(model, context(make_context))
    assert read_onnx(found.path).specs == found.specs
    assert Specs.from_json(json.loads(json.dumps(found.specs.to_json()))) == found.specs
    slim = Simplify()(found, context(make_context))
    assert slim.specs == found.specs
    rounded = framed(Static()(slim, context(make_context, scheme=SCHEME)), slim)
    assert rounded.specs == found.specs
    feeds = {"image": pictures()}
    assert signal_to_noise(judge(rounded).run(feeds), judge(found).run(feeds)) > 20


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "reference"])
def test_engines_take_the_picture(name, model, make_context, tmp_path):
    found = Step(mean=MEAN, std=STD)(model, context(make_context))
    (tmp_path / "engine").mkdir()
    options = dict(targets.get(name).plain)
    files = engines.get(name).compile(found.path, tmp_path / "engine", options)
    session = engines.get(name).open(files, found.specs, host.facts(), options)
    wanted = judge(model).run({"image": normalized(pictures())})["output"]
    assert np.abs(session.run({"image": pictures()})["output"] - wanted).max() < 1e-3
    session.close()


def test_a_model_that_has_its_channels_last_is_not_transposed(make_context):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 5)

        def forward(self, image):
            return self.linear(image).mean((1, 2))

    x = np.ascontiguousarray(normalized(pictures()).transpose(0, 2, 3, 1))
    inputs = (TensorSpec("image", "float32", ("batch", 12, 10, 3)),)
    model = Export()(TorchModel(Last().eval(), inputs), make_context({"image": x}))
    found = Step(mean=MEAN, std=STD)(model, context(make_context, x))
    assert "Transpose" not in [node.op_type for node in onnx.load(found.path).graph.node][:4]
    wanted = judge(model).run({"image": x})["output"]
    assert np.abs(judge(found).run({"image": pictures()})["output"] - wanted).max() < 1e-4


@pytest.mark.parametrize(
    "settings, message",
    [({}, "no picture by scale"), ({"mean": MEAN, "std": STD, "scale": 1.0}, "no picture by scale"),
     ({"mean": (0.5, 0.5)}, "no axis of 2 channels"), ({"input": "other"}, "no float32 picture 'other'")],
)  # fmt: skip
def test_numbers_that_are_not_the_data_s_and_inputs_that_are_none_are_refused(settings, message, model, make_context):
    with pytest.raises(StepError, match=message):
        Step(**settings)(model, context(make_context))


@pytest.mark.parametrize("settings", [{"mean": (0.5,) * 3, "std": (0.5, 0.5)}, {"std": (0.0,)}, {"mean": ()}])
def test_settings_that_do_not_fit_each_other_are_refused(settings):
    with pytest.raises(ValueError, match=r"channel|above 0"):
        Step(**settings)


def test_an_input_that_an_inner_graph_reads_is_refused(model, make_context):
    proto = onnx.load(model.path)
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["image"], ["inner"])], "inner", [],
        [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, ["batch", 3, 12, 10])],
    )  # fmt: skip
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(
        onnx.helper.make_node("If", ["yes"], ["same"], "branch", then_branch=inner, else_branch=inner)
    )
    proto.graph.output.append(onnx.helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None))
    onnx.save(proto, model.path)
    with pytest.raises(StepError, match=r"'branch' \(If\) reads the input 'image' in a graph of its own"):
        Step(mean=MEAN, std=STD)(read_onnx(model.path), context(make_context))


def test_a_frame_takes_back_only_what_it_made():
    frame = Frame(1 / 255, MEAN, STD, True)
    assert frame.whole(normalized(pictures())).tobytes() == pictures().tobytes()
    with pytest.raises(InputError, match="off whole ones"):
        frame.whole(normalized(pictures()) + 0.01)
    with pytest.raises(InputError, match="run from"):
        frame.whole(normalized(pictures()) * 9)
    with pytest.raises((ValueError, KeyError, TypeError)):
        Frame.from_json({"scale": "x", "mean": [0], "std": [1], "channels_first": True})
    with pytest.raises(ValueError, match="too large"):
        Frame.from_json({"scale": 10**400, "mean": [0], "std": [1], "channels_first": True})


def test_a_run_gives_a_bundle_that_takes_the_picture(model, tmp_path, monkeypatch):
    import optimize
    import runtime

    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    x = normalized(pictures(96))
    labels = judge(model).run({"image": x})["output"]
    np.savez(tmp_path / "data.npz", image=x, y=labels.reshape(96, -1).argmax(1) % 4)
    table = {
        "model": {"path": str(model.path)},
        "data": {"path": str(tmp_path / "data.npz"), "metric": "agreement"},
        "steps": [{"use": "fold_preprocessing", "mean": MEAN, "std": STD}, {"use": "quantize_static"}],
        "targets": {"onnxruntime": {}},
        "measure": {"budget": 1},
        "constraints": {"max_drop": 1.0},
    }
    from optimize.recipe import from_table

    report = optimize.run(from_table(table, tmp_path), out=tmp_path / "out", silent=True)
    assert {row.name: row.status for row in report.candidates} == {
        f"onnxruntime-{name}": "measured" for name in ("fp32", "default", "int8")
    }
    assert report.row("onnxruntime-fp32").accuracy.value == 1.0, "it answers as the original does on what it came of"
    loaded = runtime.load(tmp_path / "out" / "bundle")
    got = loaded(pictures(4))
    assert signal_to_noise({"output": got}, {"output": labels[:4]}) > 20
    with pytest.raises(InputError, match="this model takes uint8"):
        loaded(x[:4])
