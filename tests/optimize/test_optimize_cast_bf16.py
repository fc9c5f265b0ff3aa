import onnx
import pytest

import targets
from optimize.models import read_onnx
from optimize.steps.cast_bf16 import Step
from optimize.steps.quantize_static import Step as Static
from optimize.verify import interpreter, judge, signal_to_noise
from runtime import host
from runtime.errors import StepError

SCHEME = targets.get("tensorrt").scheme("host", host.facts())


def test_the_graph_computes_in_bf16_and_says_what_it_said(tiny_onnx, image_context):
    context = image_context(scheme=SCHEME, samples=8)
    model = read_onnx(tiny_onnx)
    found = Step()(model, context)
    proto = onnx.load(found.path)
    assert found.specs == model.specs and proto.opset_import[0].version == 22
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    convolutions = [node for node in proto.graph.node if node.op_type in ("Conv", "Gemm")]
    assert convolutions and all(kinds[node.input[1]] == onnx.TensorProto.BFLOAT16 for node in convolutions)
    feeds = context.calibrate.take(8)[0]
    assert interpreter(found)[0] == "reference" and interpreter(model)[0] == "onnxruntime"
    assert 25 < signal_to_noise(judge(found).run(feeds), judge(model).run(feeds)) < 70
    assert any("ops are in bf16" in note for note in context.notes)


def test_what_is_excluded_stays_and_int8_goes_on(tiny_onnx, image_context):
    context = image_context(scheme=SCHEME, samples=8)
    rounded = Static()(read_onnx(tiny_onnx), context)
    feeds = context.calibrate.take(4)[0]
    found = Step()(rounded, image_context(scheme=SCHEME, samples=8))
    assert signal_to_noise(judge(found).run(feeds), judge(rounded).run(feeds)) > 15
    kept = Step(exclude=("Conv",))(read_onnx(tiny_onnx), image_context(scheme=SCHEME, samples=8))
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(kept.path).graph.initializer}
    assert {kinds[node.input[1]] for node in onnx.load(kept.path).graph.node if node.op_type == "Conv"} == {1}


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_target_that_does_not_take_it_from_the_graph_is_told_what_does(name, tiny_onnx, image_context):
    scheme = targets.get(name).scheme("host", host.facts())
    with pytest.raises(StepError, match=r"OpenVINO computes in it where \[targets.openvino\] has precision = 'bf16'"):
        Step()(read_onnx(tiny_onnx), image_context(scheme=scheme))
