from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import targets
from optimize import plan, steps
from optimize.models import TorchModel
from optimize.recipe import from_table
from optimize.steps._schemes import offences
from optimize.steps.export import Step as Export
from optimize.steps.quantize_torch import Step
from optimize.steps.simplify import Step as Simplify
from optimize.verify import judge
from runtime import engines, host
from runtime.errors import StepError
from runtime.tensors import TensorSpec

IMAGE = (TensorSpec("image", "float32", ("batch", 3, 16, 16)),)


def scheme(name, cpu="vnni"):
    return targets.get(name).scheme(cpu, host.facts())


def answers(model, context, name=None):
    feeds, labels = context.calibrate.take(160)
    return next(iter(judge(model).run(feeds).values())).argmax(1), labels


@pytest.mark.parametrize("name", targets.names())
def test_it_keeps_to_the_scheme_of_each_target_and_to_the_answers(name, learned, torch_context):
    context = torch_context(scheme=scheme(name))
    found = Step()(learned, context)
    proto = onnx.load(found.path)
    assert offences(proto, scheme(name)) == []
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("QuantizeLinear") >= 8 and kinds.count("Conv") >= 8
    weights = {tensor.name: tensor.data_type for tensor in proto.graph.initializer if len(tensor.dims) == 4}
    assert set(weights.values()) == {onnx.TensorProto.INT8}, "weights are whole numbers in the file"
    assert [spec.shape for spec in found.specs.inputs] == [spec.shape for spec in learned.inputs]
    got, labels = answers(found, context)
    assert (got == labels).mean() > 0.95


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_the_engine_computes_in_int8_after_simplify(name, learned, torch_context, tmp_path):
    context = torch_context(scheme=scheme(name))
    found = Simplify()(Step()(learned, context), torch_context(scheme=scheme(name)))
    (tmp_path / "engine").mkdir()
    options = dict(targets.get(name).plain)
    files = engines.get(name).compile(found.path, tmp_path / "engine", options)
    session = engines.get(name).open(files, found.specs, host.facts(), options)
    # its sums take one side in float, which OpenVINO fuses all the same
    assert session.precision().get("int8", 0) >= 5, session.precision()
    session.close()


def test_excluded_modules_stay_in_float(learned, torch_context):
    whole = onnx.load(Step()(learned, torch_context(scheme=scheme("onnxruntime"))).path)
    part = onnx.load(Step(exclude=("Linear", "stem*"))(learned, torch_context(scheme=scheme("onnxruntime"))).path)
    count = [sum(node.op_type == "QuantizeLinear" for node in proto.graph.node) for proto in (whole, part)]
    assert count[1] < count[0]
    with pytest.raises(StepError, match=r"exclude 'head' matches no module; there are stem\.0"):
        Step(exclude=("head",))(learned, torch_context(scheme=scheme("onnxruntime")))


def test_a_module_that_cannot_be_captured_is_named(torch_context):
    class Choosy(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.choosy = nn.Conv2d(3, 4, 3), Choosy()

        def forward(self, image):
            return self.choosy(self.conv(image)).mean((2, 3))

    with pytest.raises(StepError, match=r"torch cannot capture the model \(in Choosy, line \d+ of forward\)"):
        Step()(TorchModel(Outer().eval(), IMAGE), torch_context(scheme=scheme("onnxruntime")))


def test_tied_weights_and_a_model_with_nothing_to_round(torch_context):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 3, 3, padding=1)
            self.second = nn.Conv2d(3, 3, 3, padding=1)
            self.second.weight = self.first.weight

        def forward(self, image):
            return self.second(torch.relu(self.first(image))).mean((2, 3))

    context = torch_context(scheme=scheme("onnxruntime"))
    model = TorchModel(Tied().eval(), IMAGE)
    feeds = context.calibrate.take(16)[0]
    wanted = judge(Export()(model, torch_context())).run(feeds)["output"]
    got = judge(Step()(model, context)).run(feeds)["output"]
    assert np.linalg.norm(got - wanted) < 0.1 * np.linalg.norm(wanted)

    class Bare(nn.Module):
        def forward(self, image):
            return image.mean((1, 2, 3))[:, None]

    with pytest.raises(StepError, match="quantized nothing"):
        Step()(TorchModel(Bare().eval(), IMAGE), torch_context(scheme=scheme("onnxruntime")))


def recipe(**step):
    return from_table(
        {
            "model": {"source": "torch", "entry": "model.py:build"},
            "data": {"entry": "data.py:splits"},
            "steps": [step],
            "targets": {"onnxruntime": {"cpu": "vnni"}},
        },
        Path(),
    )


def test_auto_rounds_in_torch_too_and_the_plain_model_is_exported_as_ever():
    found = plan.expand(recipe(use="quantize_static", method="auto"), host.facts())
    named = {one.name: [steps.name_of(step) for step in one.steps] for one in found}
    assert named["onnxruntime-fp32"] == ["export", "simplify"]
    assert named["onnxruntime-int8-torch"] == ["quantize_torch"]
    assert named["onnxruntime-int8-nncf"] == ["export", "simplify", "quantize_static"]
    alone = plan.expand(recipe(use="quantize_torch"), host.facts())
    named = {one.name: [steps.name_of(step) for step in one.steps] for one in alone}
    assert named["onnxruntime-fp32"] == ["export", "simplify"]
    assert named["onnxruntime-int8-torch"] == ["quantize_torch", "simplify"]


def test_where_kernels_may_saturate_it_is_there_if_that_is_seen(learned, torch_context):
    narrow = scheme("openvino", "avx2")
    assert "8 bits" in Step().unfit(narrow) and Step(wide=True).unfit(narrow) == "" == Step().unfit(scheme("openvino"))
    found = Step(wide=True)(learned, torch_context(scheme=Step(wide=True).heeded(narrow, None)))
    assert offences(onnx.load(found.path), scheme("openvino")) == []
