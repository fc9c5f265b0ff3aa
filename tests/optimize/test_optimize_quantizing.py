"""What quantizing is made of: layers, ranges, equalization, bias correction, schemes, layers back in float."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import targets
from optimize.models import TorchModel, read_onnx, write_onnx
from optimize.steps._bias import correct_bias
from optimize.steps._equalize import SIGN, equalize
from optimize.steps._float import quantized, to_float
from optimize.steps._graph import opset_of, to_float32
from optimize.steps._layers import Graph, in_int8
from optimize.steps._ranges import ranges
from optimize.steps._schemes import offences, tables_last
from optimize.steps.export import Step as Export
from optimize.steps.quantize_static import Step
from optimize.verify import judge, signal_to_noise
from runtime import host
from runtime.errors import StepError
from runtime.tensors import TensorSpec
from targets import Scheme

SCHEME = Scheme(ops=("Conv", "Gemm", "MatMul", "Add", "GlobalAveragePool"))


@pytest.fixture
def images(tiny_data):
    return {"image": tiny_data[0]}


@pytest.fixture
def context(make_context, images):
    return make_context(images, scheme=SCHEME)


def loss(model, other, images):
    return signal_to_noise(judge(other).run(images), judge(model).run(images))


# layers


def test_a_layer_ends_behind_its_activation_and_a_sum_is_int8_between_convolutions_only(uneven):
    graph = Graph(onnx.load(uneven.path))
    chosen, given = in_int8(graph, SCHEME.ops, lambda node: False)
    assert [node.name for node in chosen] == ["first", "depthwise", "pointwise", "pool", "classifier"]
    assert given == ["c", "e", "g", "h"]
    chosen, _ = in_int8(graph, SCHEME.ops, lambda node: node.name == "pointwise")
    assert [node.name for node in chosen] == ["first", "depthwise", "classifier"]


# ranges


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_streamed_ranges_are_those_of_one_pass_over_everything(method, uneven, make_context, images):
    proto = onnx.load(uneven.path)
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    shown.graph.output.append(onnx.ValueInfoProto(name="a"))
    import onnxruntime

    session = onnxruntime.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    values = session.run(["a"], images)[0].astype(np.float64).ravel()
    found = ranges(proto, ["image", "a"], uneven, make_context(images), 64, method, 99.0)
    low, high = found["a"]
    if method == "minmax":
        assert (low, high) == pytest.approx((values.min(), values.max()), rel=1e-5)
        assert found["image"] == pytest.approx((images["image"].min(), images["image"].max()))
    elif method == "percentile":
        step = (values.max() - values.min()) / 2048
        assert (low, high) == pytest.approx(np.quantile(values, (0.005, 0.995)), abs=2 * step)
    else:
        assert values.min() - 1e-3 <= low < 0 < high <= values.max() + 1e-3
        from onnxruntime.quantization.calibrate import HistogramCollector

        most = np.float32(max(-values.min(), values.max()))
        counts, edges = np.histogram(values.astype(np.float32), 513, range=(-most, most))
        ends = [np.float32(values.min()), np.float32(values.max())]
        whole = HistogramCollector("entropy", False, 513, 128, None, None)
        wanted = whole.get_entropy_threshold((counts, edges.astype(np.float32), *ends, most), 128)
        assert (low, high) == pytest.approx([float(one) for one in wanted], rel=0.02)


def test_a_number_that_is_none_names_the_node_that_gives_it(uneven, make_context, images):
    proto = onnx.load(uneven.path)
    (bias,) = [tensor for tensor in proto.graph.initializer if tensor.name == "b2"]
    bias.CopyFrom(numpy_helper.from_array(np.full(8, np.nan, np.float32), "b2"))
    with pytest.raises(StepError, match="'depthwise' \\(Conv\\) gives NaN"):
        ranges(proto, ["image", "c", "d", "e"], uneven, make_context(images), 64, "minmax", 99.0)


# equalization


def test_equalizing_changes_no_answer_and_makes_channels_alike(uneven, context, images, tmp_path):
    proto = onnx.load(uneven.path)
    assert equalize(proto, uneven, context, 64) == 2
    assert loss(uneven, write_onnx(proto, tmp_path / "equal.onnx"), images) > 100
    assert {name for node in proto.graph.node for name in node.output if name.endswith(SIGN)} == {
        f"{name}{SIGN}" for name in "acde"
    }


def test_equalizing_goes_through_prelu_and_into_groups(make_context, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 12, 1, groups=4), nn.PReLU(), nn.Conv2d(12, 4, 1))
    with torch.no_grad():
        net[0].weight *= torch.logspace(-2, 0, 8).reshape(-1, 1, 1, 1)
        net[1].weight[:] = torch.linspace(-0.5, 1.5, 8)
    feeds = {"image": np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)}
    context = make_context(feeds, scheme=SCHEME)
    model = Export()(TorchModel(net.eval(), (TensorSpec("image", "float32", ("batch", 3, 8, 8)),)), context)
    proto = onnx.load(model.path)
    assert equalize(proto, model, context, 16) == 2
    assert loss(model, write_onnx(proto, tmp_path / "equal.onnx"), feeds) > 100
    losses = [loss(model, Step(equalize=equal)(model, make_context(feeds, scheme=SCHEME)), feeds) for equal in (0, 1)]
    assert losses[1] > losses[0] + 1


def test_equalizing_makes_rounding_better(uneven, make_context, images):
    plain = Step(bias_correction="none")(uneven, make_context(images, scheme=SCHEME))
    equal = Step(bias_correction="none", equalize=True)(uneven, make_context(images, scheme=SCHEME))
    assert loss(uneven, equal, images) > loss(uneven, plain, images) + 3


# bias correction


def test_bias_correction_takes_the_shift_of_the_mean_back(uneven, make_context, images):
    context = make_context(images, scheme=SCHEME)
    crude = Scheme(ops=("Conv",), per_channel=False, quantize_outputs=False)
    exact = judge(uneven).run(images)["logits"]
    shifts = []
    for how in ("none", "fast"):
        found = Step(bias_correction=how)(uneven, make_context(images, scheme=crude))
        shifts.append(np.abs((judge(found).run(images)["logits"] - exact).mean(0)).max())
    assert shifts[1] < 0.6 * shifts[0]
    proto = onnx.load(uneven.path)
    rounded = onnx.load(Step(bias_correction="none")(uneven, context).path)
    assert correct_bias(proto, rounded, uneven, context, 64) == 4


def test_the_bias_that_an_add_puts_behind_a_product_is_corrected_too(make_context, tmp_path):
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "b"], ["y"], "bias"),
    ]
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["batch", 5, k]) for n, k in (("x", 16), ("y", 8))]
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (16, 8)), ("b", (8,)))
    ]
    graph = helper.make_graph(nodes, "biased", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    model = read_onnx(tmp_path / "m.onnx")
    feeds = {"x": (random.standard_normal((64, 5, 16)) + 3).astype(np.float32)}
    crude = Scheme(ops=("MatMul",), per_channel=False, quantize_outputs=False)
    exact = judge(model).run(feeds)["y"]
    shifts = []
    for how in ("none", "fast"):
        found = Step(bias_correction=how)(model, make_context(feeds, scheme=crude))
        shifts.append(np.abs((judge(found).run(feeds)["y"] - exact).mean((0, 1))).max())
    assert shifts[1] < 0.2 * shifts[0]
    rounded = onnx.load(found.path)
    to_float(rounded, ["product"], onnx.load(model.path))
    assert loss(model, write_onnx(rounded, tmp_path / "float.onnx"), feeds) > 100


def test_biases_of_a_convolution_over_time_are_corrected_too(make_context, tmp_path):
    random = np.random.default_rng(0)
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("x", (4, 40)), ("y", (6, 38)))
    ]
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (6, 4, 3)), ("b", (6,)))
    ]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv")], "g", ends[:1], ends[1:], weights
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    model = read_onnx(tmp_path / "m.onnx")
    feeds = {"x": (random.standard_normal((64, 4, 40)) + 3).astype(np.float32)}
    crude = Scheme(ops=("Conv",), per_channel=False, quantize_outputs=False)
    exact, shifts = judge(model).run(feeds)["y"], []
    for how in ("none", "fast"):
        found = Step(bias_correction=how)(model, make_context(feeds, scheme=crude))
        shifts.append(np.abs((judge(found).run(feeds)["y"] - exact).mean((0, 2))).max())
    assert shifts[1] < 0.2 * shifts[0]


# schemes


def test_a_result_outside_the_scheme_is_told_by_its_nodes(uneven, context):
    rounded = onnx.load(Step()(uneven, context).path)
    assert offences(rounded, SCHEME) == []
    told = offences(rounded, Scheme(ops=SCHEME.ops, activation="int8", weight="uint8", per_channel=False))
    assert [line.split(" (")[0] for line in told] == [
        "activations in uint8 instead of int8", "weights in int8 instead of uint8", "weights with a scale a channel",
    ]  # fmt: skip
    strict = Scheme(ops=SCHEME.ops, activation_symmetric=True, quantize_bias=False, reduce_range=True)
    told = " ".join(offences(rounded, strict))
    assert "activations with a zero point" in told and "biases in int32" in told and "8 bits instead of 7" in told


# back to float


def test_every_layer_back_in_float_gives_the_float_graph_again(uneven, context, images, tmp_path):
    rounded = onnx.load(Step(bias_correction="none")(uneven, context).path)
    layers = [node.name for node in quantized(rounded)]
    assert layers == ["first", "depthwise", "pointwise", "classifier"]
    to_float(rounded, layers, onnx.load(uneven.path))
    assert not any("quantize" in node.op_type.lower() for node in rounded.graph.node)
    assert loss(uneven, write_onnx(rounded, tmp_path / "float.onnx"), images) > 100


@pytest.mark.parametrize("quantize_bias", [True, False])
def test_a_bias_that_was_corrected_for_rounding_is_exact_again_with_its_layer(
    quantize_bias, uneven, make_context, images, tmp_path
):
    crude = Scheme(ops=SCHEME.ops, per_channel=False, quantize_bias=quantize_bias)
    rounded = onnx.load(Step()(uneven, make_context(images, scheme=crude)).path)
    to_float(rounded, [node.name for node in quantized(rounded)], onnx.load(uneven.path))
    assert loss(uneven, write_onnx(rounded, tmp_path / "float.onnx"), images) > 100


@pytest.mark.parametrize("name", ["first", "depthwise", "pointwise", "classifier"])
def test_one_layer_back_in_float_is_no_worse_and_its_neighbours_stay_int8(name, uneven, context, images, tmp_path):
    model = Step(bias_correction="none")(uneven, context)
    rounded = onnx.load(model.path)
    to_float(rounded, {name}, onnx.load(uneven.path))
    assert [node.name for node in quantized(rounded)] == [
        other for other in ("first", "depthwise", "pointwise", "classifier") if other != name
    ]
    onnx.checker.check_model(rounded)
    assert loss(uneven, write_onnx(rounded, tmp_path / "one.onnx"), images) > loss(uneven, model, images) - 1


def test_where_one_layer_alone_stays_in_int8_a_trunk_of_residuals_is_not_rounded_beyond_its_sum(residual, make_context):
    """Its own pairs stay, and those of the sum that it goes into: of the other operand, and behind."""
    images = {"image": np.random.default_rng(0).random((32, 3, 16, 16)).astype(np.float32)}
    context = make_context(images, scheme=SCHEME)
    model = Export()(TorchModel(residual(), (TensorSpec("image", "float32", ("batch", 3, 16, 16)),)), context)
    whole, exact = Step(bias_correction="none")(model, context).path, onnx.load(model.path)
    counts = []
    for one in (layers := {node.name: node for node in quantized(onnx.load(whole))}):
        rounded = onnx.load(whole)
        to_float(rounded, set(layers) - {one}, exact)
        assert [node.name for node in quantized(rounded)] == [one]
        counts.append(sum(node.op_type == "QuantizeLinear" for node in rounded.graph.node))
    assert sorted(counts) == [1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4]  # the classifier, within a block, into a sum


# older and narrower models


def test_an_old_half_precision_model_is_raised_and_keeps_its_ends(uneven, make_context, images, tmp_path):
    from optimize.steps.cast_fp16 import Step as Cast

    half = Cast(keep_io=False)(uneven, make_context(images))
    narrow = {"image": images["image"].astype(np.float16)}
    context = make_context(narrow, scheme=SCHEME)
    found = Step()(half, context)
    assert found.specs == half.specs
    assert any("half precision" in note for note in context.notes)
    got, wanted = judge(found).run(narrow), judge(uneven).run(images)
    assert signal_to_noise({"logits": got["logits"].astype(np.float32)}, wanted) > 15
    proto = onnx.load(half.path)
    assert to_float32(proto) and not to_float32(onnx.load(uneven.path))
    assert loss(uneven, uneven, images) == np.inf and opset_of(proto) >= 17


def test_an_older_opset_is_raised(make_context, tmp_path):
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    ends = [helper.make_tensor_value_info(name, 1, ["batch", 2, 4, 4]) for name in "xy"]
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.standard_normal((2, 2, 1, 1)).astype(np.float32), "w")
    graph = helper.make_graph(nodes, "old", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=6), tmp_path / "old.onnx")
    feeds = {"x": random.standard_normal((16, 2, 4, 4)).astype(np.float32)}
    context = make_context(feeds, scheme=SCHEME)
    found = Step()(read_onnx(tmp_path / "old.onnx"), context)
    assert opset_of(onnx.load(found.path)) == 17 and "raised from opset 9 to 17" in context.notes


def test_a_model_that_is_quantized_already_is_refused(uneven, context, make_context, images):
    once = Step()(uneven, context)
    with pytest.raises(StepError, match="quantized already, it has DequantizeLinear, QuantizeLinear"):
        Step()(once, make_context(images, scheme=SCHEME))


@pytest.mark.parametrize("target, in_int8", [("onnxruntime", 0), ("openvino", 0), ("tensorrt", 2)])
@pytest.mark.parametrize("method", ["onnxruntime", "nncf"])
def test_products_of_two_activations_are_rounded_where_that_pays(target, in_int8, method, make_context):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x):
            q, k, v = self.qkv(x).chunk(3, -1)
            return self.out((q @ k.transpose(1, 2)).relu() @ v)

    torch.manual_seed(0)
    context = make_context({"x": np.random.default_rng(0).standard_normal((32, 8, 16)).astype(np.float32)})
    context = replace(context, scheme=targets.get(target).scheme("host", host.facts()))
    model = Export()(TorchModel(Attention().eval(), (TensorSpec("x", "float32", ("batch", 8, 16)),)), context)
    proto = onnx.load(Step(method=method)(model, context).path)
    maker = {name: node.op_type for node in proto.graph.node for name in node.output}
    stored = {tensor.name for tensor in proto.graph.initializer}
    of_constants = {
        node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored
    }
    products = [node for node in proto.graph.node if node.op_type == "MatMul" and node.input[1] not in of_constants]
    assert len(products) == 2
    if in_int8 and method == "nncf":
        return  # which of the two it rounds is its own affair
    rounded = [node for node in products if all(maker[name] == "DequantizeLinear" for name in node.input)]
    assert len(rounded) == in_int8


@pytest.mark.parametrize("rows", [False, True])
def test_a_table_in_int8_is_looked_up_before_it_becomes_float(rows, tmp_path):
    random = np.random.default_rng(0)
    table = random.integers(-127, 128, (50, 8)).astype(np.int8)
    scale = random.random(50 if rows else ()).astype(np.float32)
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node("DequantizeLinear", ["table", "scale", "zero"], ["float"], "back", **({"axis": 0} if rows else {})),
         node("Gather", ["float", "ids"], ["y"], "look", axis=0), node("Gather", ["float", "more"], ["z"], "again")],
        "g", [value("ids", 7, ["n", 3]), value("more", 7, ["n"])],
        [value("y", 1, ["n", 3, 8]), value("z", 1, ["n", 8])],
        [numpy_helper.from_array(one, name)
         for one, name in ((table, "table"), (scale, "scale"), (np.zeros_like(scale, np.int8), "zero"))],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    before = onnx.ModelProto()
    before.CopyFrom(proto)
    tables_last(proto)
    onnx.checker.check_model(proto)
    assert "DequantizeLinear" not in [one.op_type for one in proto.graph.node]
    feeds = {"ids": random.integers(0, 50, (4, 3)), "more": random.integers(0, 50, 4)}
    got, wanted = (
        judge(write_onnx(one, tmp_path / name / "m.onnx")).run(feeds) for one, name in ((proto, "a"), (before, "b"))
    )
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)
