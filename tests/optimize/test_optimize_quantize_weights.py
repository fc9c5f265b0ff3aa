import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

import targets
from optimize.models import read_onnx
from optimize.steps.quantize_weights import Step
from optimize.verify import judge, signal_to_noise
from runtime import engines, host
from runtime.engines import relative_error
from runtime.errors import StepError

BLOCKED = [name for name in targets.names() if targets.get(name).scheme("host", host.facts()).blocks]


@pytest.fixture
def model(tmp_path):
    """x (batch, 64) through a MatMul to 96, a Relu, a Gemm with a bias and a turned weight to 8."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Gemm", ["b", "v", "bias"], ["y"], "second", transB=1),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 64), ("y", 8))]
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (64, 96)), ("v", (8, 96)), ("bias", (8,)))
    ]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    path = tmp_path / "products.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return read_onnx(path)


def feeds(samples=32):
    return {"x": np.random.default_rng(1).standard_normal((samples, 64)).astype(np.float32)}


def scheme(name):
    return targets.get(name).scheme("host", host.facts())


def loss(found, model):
    return signal_to_noise(judge(found).run(feeds()), judge(model).run(feeds()))


def small(model):
    """Bytes of the weights that are in 8 bits or fewer, out of all."""
    graph = onnx.load(model.path).graph
    sizes = {True: 0, False: 0}
    for tensor in graph.initializer:
        kinds = (TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT4, TensorProto.INT4)
        sizes[tensor.data_type in kinds] += len(tensor.raw_data)
    return sizes[True], sum(sizes.values())


@pytest.mark.parametrize("name", BLOCKED)
@pytest.mark.parametrize(
    "settings, enough",
    [
        ({"bits": 8}, 35), ({"bits": 8, "symmetric": True}, 35), ({"bits": 4}, 15),
        ({"bits": 4, "symmetric": True}, 14), ({"bits": 4, "method": "gptq", "symmetric": True}, 14),
        ({"bits": 4, "method": "gptq"}, 15), ({"bits": 4, "method": "awq"}, 14), ({"bits": 4, "method": "hqq"}, 15),
    ],
)  # fmt: skip
def test_each_method_in_the_form_of_each_target(name, settings, enough, model, make_context):
    form = scheme(name).blocks
    step, context = Step(block=32, **settings), make_context(feeds(64), scheme=scheme(name))
    if settings.get("method") == "hqq" and form != "MatMulNBits":
        with pytest.raises(StepError, match="only MatMulNBits"):
            step(model, context)
        return
    found = step(model, context)
    assert found.specs == model.specs
    kinds = [node.op_type for node in onnx.load(found.path).graph.node]
    assert kinds.count(form) == 2 and kinds.count("MatMul") == (0 if form == "MatMulNBits" else 2)
    assert loss(found, model) > enough
    packed, whole = small(found)
    assert whole < 0.45 * (64 * 96 + 8 * 96) * 4 and packed >= (64 * 96 + 8 * 96) * step.bits // 8
    onnx.checker.check_model(found.path)
    assert "weights of 2 products" in " ".join(context.notes)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "reference"])
def test_engines_compute_what_the_file_says(name, bits, model, make_context, tmp_path):
    found = Step(bits=bits, block=32)(model, make_context(feeds(), scheme=scheme(name)))
    (tmp_path / "engine").mkdir()
    options = dict(targets.get(name).plain)
    files = engines.get(name).compile(found.path, tmp_path / "engine", options)
    session = engines.get(name).open(files, found.specs, host.facts(), options)
    assert signal_to_noise(session.run(feeds()), judge(found).run(feeds())) > 40
    if name != "reference":
        formats = session.precision()
        assert any(f"int{bits}" in one for one in formats), formats
        # an engine is called wrong beyond its tolerance, which must not befall what rounds activations by itself
        allowed = max(engines.get(name).TOLERANCE.get(one, 0.0) for one in formats)
        error, _ = relative_error(session.run(feeds()), judge(found).run(feeds()))
        assert error <= allowed
    session.close()


def test_gptq_loses_less_than_rounding_to_nearest_where_inputs_are_related(model, make_context):
    random = np.random.default_rng(2)
    given = {"x": (random.standard_normal((256, 6)) @ random.standard_normal((6, 64))).astype(np.float32)}
    ratios = {}
    for method in ("rtn", "gptq"):
        found = Step(bits=4, block=32, method=method)(model, make_context(given, scheme=scheme("onnxruntime")))
        ratios[method] = signal_to_noise(judge(found).run(given), judge(model).run(given))
    assert ratios["gptq"] > ratios["rtn"] + 1


def test_exclude_tied_weights_and_lengths_that_do_not_fit_are_said(model, make_context):
    context = make_context(feeds(), scheme=scheme("openvino"))
    found = Step(exclude=("second",), block=32)(model, context)
    assert [n.op_type for n in onnx.load(found.path).graph.node].count("DequantizeLinear") == 1
    assert any("left in float: second" in note for note in context.notes)
    with pytest.raises(StepError, match="multiple of block = 128"):
        Step()(model, make_context(feeds(), scheme=scheme("openvino")))

    proto = onnx.load(model.path)
    proto.graph.node.append(helper.make_node("ReduceMean", ["w"], ["m"], "other", keepdims=0))
    proto.graph.node.append(helper.make_node("Add", ["y", "m"], ["z"], "sum"))
    proto.graph.output[0].name = "z"
    onnx.save(proto, model.path)
    context = make_context(feeds(), scheme=scheme("onnxruntime"))
    Step(block=32)(read_onnx(model.path), context)
    assert any("others use too" in note and "first" in note for note in context.notes)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "gptq"}, "bits = 4"), ({"bits": 4, "method": "hqq", "symmetric": True}, "zero points"),
        ({"block": 48}, "power of two"), ({"block": 8}, "16"), ({"bits": 3}, "4 or 8"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Step(**settings)


def test_a_pattern_that_matches_nothing_and_a_model_without_products(model, make_context, tiny_onnx, image_context):
    with pytest.raises(StepError, match=r"'third' matches nothing; products with constant weights are: first"):
        Step(include=("third",))(model, make_context(feeds(), scheme=scheme("onnxruntime")))
    quantized = Step(block=32)(model, make_context(feeds(), scheme=scheme("onnxruntime")))
    with pytest.raises(StepError, match="quantized already"):
        Step(block=32)(quantized, make_context(feeds(), scheme=scheme("onnxruntime")))
