from collections import defaultdict

import numpy as np
import onnx
import onnxruntime.quantization
import pytest
from onnx import TensorProto, helper, numpy_helper

import targets
from optimize.data import Split
from optimize.models import read_onnx
from optimize.steps import Context
from optimize.steps.quantize_static import Step
from optimize.verify import judge, signal_to_noise
from runtime import host
from runtime.errors import StepError
from targets import Scheme

PLAIN = Scheme(ops=("Conv", "Gemm"))


class Graph:
    """What the tests ask of a quantized file."""

    def __init__(self, path):
        self.proto = onnx.load(path)
        self.nodes = list(self.proto.graph.node)
        self.values = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.proto.graph.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}

    def of(self, *kinds):
        return [node for node in self.nodes if node.op_type in kinds]

    def behind(self, name):
        """The DequantizeLinear that gives this value, or None."""
        made = self.maker.get(name)
        return made if made is not None and made.op_type == "DequantizeLinear" else None

    def zero_point(self, node):
        return self.values[node.input[2]]

    def scale(self, node):
        return self.values[node.input[1]]

    def quantized_weights(self, *kinds):
        """(node, DequantizeLinear of its weight) of each that is quantized."""
        pairs = [(node, self.behind(node.input[1])) for node in self.of(*kinds)]
        return [(node, found) for node, found in pairs if found is not None and found.input[0] in self.values]


def scheme_of(name, cpu="host"):
    return targets.get(name).scheme(cpu, host.facts())


@pytest.fixture(scope="module")
def quantized(tiny_onnx, tiny_data, tmp_path_factory):
    """By scheme, made once."""
    made = {}

    def make(scheme):
        if scheme not in made:
            split = Split("calibrate", lambda: [({"image": tiny_data[0]}, None)])
            axes = {"batch": {"min": 1, "best": 1, "max": 4}}
            context = Context(split, axes, scheme, tmp_path_factory.mktemp("quantized"))
            made[scheme] = Step()(read_onnx(tiny_onnx), context)
        return made[scheme]

    return make


@pytest.mark.parametrize("target", targets.names())
def test_quantized_is_nearly_the_same_model(quantized, tiny_onnx, tiny_data, target):
    found, before = quantized(scheme_of(target)), read_onnx(tiny_onnx)
    assert found.specs == before.specs
    feeds = {"image": tiny_data[0][:7]}
    got, wanted = judge(found).run(feeds), judge(before).run(feeds)
    assert 15 < signal_to_noise(got, wanted) < 80
    assert found.path.stat().st_size < 1.5 * before.path.stat().st_size


@pytest.mark.parametrize("target", targets.names())
def test_activations_are_in_the_dtype_and_symmetry_of_the_target(quantized, target):
    scheme = scheme_of(target)
    graph = Graph(quantized(scheme).path)
    quantizers = graph.of("QuantizeLinear")
    points = [graph.zero_point(node) for node in quantizers]
    assert quantizers and all(point.dtype == scheme.activation and point.ndim == 0 for point in points)
    image = next(graph.zero_point(node) for node in quantizers if node.input[0] == "image")
    if scheme.activation_symmetric:
        assert all(point == 0 for point in points)
    else:
        middle = 128 if scheme.activation == "uint8" else 0
        assert abs(int(image) - middle) < 20  # the images are normal numbers, as many below zero as above


@pytest.mark.parametrize("target", targets.names())
def test_weights_are_in_the_dtype_symmetry_and_channels_of_the_target(quantized, target):
    scheme = scheme_of(target)
    graph = Graph(quantized(scheme).path)
    weights = graph.quantized_weights("Conv")
    assert len(weights) == len(graph.of("Conv")) == 2
    for _, node in weights:
        stored = graph.values[node.input[0]]
        assert stored.dtype == scheme.weight
        assert graph.scale(node).shape == ((stored.shape[0],) if scheme.per_channel else ())
        axis = [one.i for one in node.attribute if one.name == "axis"]
        assert not scheme.per_channel or (axis == [0] and len(set(graph.scale(node).tolist())) > 1)
        assert not scheme.weight_symmetric or not graph.zero_point(node).any()


@pytest.mark.parametrize("target", targets.names())
def test_biases_are_quantized_where_the_target_wants_them_only(quantized, target):
    scheme = scheme_of(target)
    graph = Graph(quantized(scheme).path)
    nodes = [node for node, _ in graph.quantized_weights("Conv", "Gemm")]
    assert len(nodes) == 3
    for node in nodes:
        behind = graph.behind(node.input[2])
        if scheme.quantize_bias:
            assert graph.values[behind.input[0]].dtype == np.int32
        else:
            assert behind is None and graph.values[node.input[2]].dtype == np.float32
    stored = {
        graph.values[node.input[0]].dtype.name for node in graph.of("DequantizeLinear") if node.input[0] in graph.values
    }
    assert ("int32" in stored) == scheme.quantize_bias


@pytest.mark.parametrize("target", targets.names())
def test_only_the_ops_of_the_target_take_quantized_inputs(quantized, target):
    scheme = scheme_of(target)
    graph = Graph(quantized(scheme).path)
    takers = {node.op_type for node in graph.nodes if any(graph.behind(name) is not None for name in node.input)}
    assert takers - {"QuantizeLinear"} <= set(scheme.ops)
    assert {"Conv", "Gemm"} <= takers


@pytest.mark.parametrize("cpu", ["avx2", "vnni", "arm"])
@pytest.mark.parametrize("target", targets.names())
def test_weights_have_seven_bits_where_the_range_is_reduced_only(quantized, target, cpu):
    scheme = scheme_of(target, cpu)
    graph = Graph(quantized(scheme).path)
    for _, node in graph.quantized_weights("Conv", "Gemm"):
        largest = abs(graph.values[node.input[0]].astype(int)).max()
        assert largest <= 64 if scheme.reduce_range else 64 < largest <= 127


def test_the_range_is_reduced_for_cpus_that_saturate_only():
    reduced = {cpu: {name for name in targets.names() if scheme_of(name, cpu).reduce_range} for cpu in targets.CPUS}
    assert reduced["avx2"] and not reduced["vnni"] and not reduced["arm"]


@pytest.mark.parametrize(
    "scheme",
    [
        Scheme(ops=("Conv", "Gemm"), per_channel=False),
        Scheme(ops=("Conv", "Gemm"), activation="int8"),
        Scheme(ops=("Conv", "Gemm"), weight="uint8", weight_symmetric=False, per_channel=False),
        Scheme(ops=("Gemm",)),
    ],
)
def test_a_scheme_that_no_target_has_yet_is_honoured_too(quantized, scheme):
    graph = Graph(quantized(scheme).path)
    weights = graph.quantized_weights("Conv", "Gemm")
    assert {node.op_type for node, _ in weights} == set(scheme.ops)
    for _, node in weights:
        assert graph.values[node.input[0]].dtype == scheme.weight
        assert graph.scale(node).ndim == int(scheme.per_channel)
    assert all(graph.zero_point(node).dtype == scheme.activation for node in graph.of("QuantizeLinear"))


# which nodes


def in_float(path):
    """The names of Conv and Gemm nodes whose weight is still in float."""
    graph = Graph(path)
    return {node.name for node in graph.of("Conv", "Gemm") if node.input[1] in graph.values}


def names(path, *kinds):
    return [node.name for node in onnx.load(path).graph.node if node.op_type in kinds]


@pytest.mark.parametrize("exclude", ["name", "start", "op"])
def test_what_is_excluded_stays_in_float(tiny_onnx, image_context, exclude):
    first, second = names(tiny_onnx, "Conv")
    pattern = {"name": first, "start": f"{first[:-1]}?", "op": "Conv"}[exclude]
    found = Step(exclude=(pattern,))(read_onnx(tiny_onnx), image_context(scheme=PLAIN))
    assert in_float(found.path) == ({first, second} if exclude == "op" else {first})


@pytest.mark.parametrize("include", ["name", "op", "both"])
def test_what_is_not_included_stays_in_float(tiny_onnx, image_context, include):
    first, second = names(tiny_onnx, "Conv")
    (gemm,) = names(tiny_onnx, "Gemm")
    patterns = {"name": (second,), "op": ("Gemm",), "both": (second, "G*")}[include]
    found = Step(include=patterns)(read_onnx(tiny_onnx), image_context(scheme=PLAIN))
    assert in_float(found.path) == {"name": {first, gemm}, "op": {first, second}, "both": {first}}[include]


def test_exclude_wins_over_include(tiny_onnx, image_context):
    second = names(tiny_onnx, "Conv")[1]
    found = Step(include=("Conv",), exclude=(second,))(read_onnx(tiny_onnx), image_context(scheme=PLAIN))
    assert in_float(found.path) == {second, *names(tiny_onnx, "Gemm")}


def test_nodes_without_names_are_quantized_and_can_be_excluded_by_kind(tiny_onnx, image_context, tmp_path):
    proto = onnx.load(tiny_onnx)
    for node in proto.graph.node:
        node.ClearField("name")
    onnx.save(proto, tmp_path / "nameless.onnx")
    model = read_onnx(tmp_path / "nameless.onnx")
    assert in_float(Step()(model, image_context(scheme=PLAIN)).path) == set()
    partly = Graph(Step(exclude=("Gemm",))(model, image_context(scheme=PLAIN)).path)
    assert len(partly.quantized_weights("Conv")) == 2 and partly.quantized_weights("Gemm") == []
    assert (tmp_path / "nameless.onnx").read_bytes() == proto.SerializeToString()


@pytest.mark.parametrize(
    ("settings", "ops"), [({"exclude": ("*",)}, PLAIN.ops), ({"include": ("Relu",)}, PLAIN.ops), ({}, ("Tanh",))]
)
def test_nothing_to_quantize_is_an_error_that_says_what_there_is(tiny_onnx, image_context, settings, ops):
    with pytest.raises(StepError, match="nothing to quantize: the model has Add, Conv, Gemm, ReduceMean, Relu"):
        Step(**settings)(read_onnx(tiny_onnx), image_context(scheme=Scheme(ops=ops)))


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_says_what_there_is(tiny_onnx, image_context, field):
    with pytest.raises(
        StepError, match=f"{field} 'conv9' matches nothing: the model has Add, Conv.* names such as node_C"
    ):
        Step(**{field: ("conv9",)})(read_onnx(tiny_onnx), image_context(scheme=PLAIN))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preset": "mixed"}, "'preset' is of method 'nncf', not of 'onnxruntime'"),
        ({"method": "nncf", "calibration": "entropy"}, "'calibration' is of method 'onnxruntime', not of 'nncf'"),
        ({"bias_correction": "full"}, "bias_correction 'full' is of method 'nncf'"),
        ({"vendor": {"CalibPercentile": 99.0}}, "CalibPercentile is not heard here: set `calibration`, `percentile`"),
    ],
)
def test_settings_of_another_method_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Step(**settings)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_nncf_keeps_to_the_scheme_of_every_target(target, tiny_onnx, tiny_data, image_context):
    scheme = scheme_of(target)
    found = Step(method="nncf")(read_onnx(tiny_onnx), image_context(scheme=scheme))
    graph = Graph(found.path)
    points = [graph.zero_point(node) for node in graph.of("QuantizeLinear") if node.input[0] not in graph.values]
    assert points and all(point.dtype == scheme.activation for point in points)
    assert not scheme.activation_symmetric or not any(point.any() for point in points)
    feeds = {"image": tiny_data[0][:7]}
    assert signal_to_noise(judge(found).run(feeds), judge(read_onnx(tiny_onnx)).run(feeds)) > 15


def test_auto_stands_for_each_library():
    ways = Step(method="auto", samples=7).ways()
    assert [(way.method, way.title(), way.samples) for way in ways] == [
        ("onnxruntime", "int8", 7), ("onnxruntime", "int8-percentile", 7), ("nncf", "int8-nncf", 7),
    ]  # fmt: skip
    asked = Step(method="auto", calibration="entropy").ways()
    assert [way.title() for way in asked] == ["int8-entropy", "int8-nncf"]
    assert Step().ways() == (Step(),)


def test_a_quantizer_that_fails_is_a_step_error(tiny_onnx, image_context, monkeypatch):
    def fail(*arguments, **settings):
        raise KeyError("a tensor that it lost")

    monkeypatch.setattr(onnxruntime.quantization.qdq_quantizer.QDQQuantizer, "quantize_model", fail)
    with pytest.raises(StepError, match="quantizer failed: KeyError: 'a tensor that it lost'"):
        Step()(read_onnx(tiny_onnx), image_context(scheme=PLAIN))


def test_vendor_options_are_handed_on_and_win(tiny_onnx, image_context):
    vendor = {"AddQDQPairToWeight": True, "QuantizeBias": False}
    graph = Graph(Step(vendor=vendor)(read_onnx(tiny_onnx), image_context(scheme=PLAIN)).path)
    conv = graph.of("Conv")[0]
    quantizer = graph.maker[graph.behind(conv.input[1]).input[0]]
    assert quantizer.op_type == "QuantizeLinear" and graph.values[quantizer.input[0]].dtype == np.float32
    assert graph.behind(conv.input[2]) is None


def test_what_is_written_holds_no_metadata(quantized):
    proto = Graph(quantized(PLAIN).path).proto
    assert not proto.metadata_props and not any(node.doc_string or node.metadata_props for node in proto.graph.node)


# calibration


@pytest.fixture
def one_conv(tmp_path):
    """x of one channel and one pixel, times one."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 1, 1])],
        [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "w")],
    )
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return read_onnx(path)


def seen_range(step, model, context):
    """The range that the quantizer saw of x: 255 steps of its scale."""
    graph = Graph(step(model, context).path)
    node = next(node for node in graph.of("QuantizeLinear") if node.input[0] == "x")
    return float(graph.scale(node)) * 255


def numbers(values):
    return {"x": np.asarray(values, np.float32).reshape(-1, 1, 1, 1)}


def test_ranges_are_the_smallest_and_largest_of_one_pass_over_all(one_conv, make_context):
    values = np.random.default_rng(0).standard_normal(64)
    found = seen_range(Step(), one_conv, make_context(numbers(values), scheme=PLAIN))
    assert found == pytest.approx(values.max() - values.min(), rel=1e-5)


@pytest.mark.parametrize("samples", [8, 10, 1])
@pytest.mark.parametrize("counts", [True, False])
def test_exactly_so_many_samples_are_looked_at_from_the_beginning(one_conv, make_context, samples, counts):
    values = np.tile([0.5, 1.0], 32)
    values[samples - 1 if counts else samples] = 100.0
    found = seen_range(Step(samples=samples), one_conv, make_context(numbers(values), scheme=PLAIN))
    assert (found > 50) == counts


@pytest.mark.parametrize("samples", [3, 10, 64])
def test_every_sample_counts_where_there_are_fewer_than_asked_for(one_conv, make_context, samples):
    values = np.tile([0.5, 1.0], 32)[:samples]
    values[-1] = 100.0
    assert seen_range(Step(), one_conv, make_context(numbers(values), scheme=PLAIN)) == pytest.approx(100)


def test_a_fixed_batch_is_fed_as_it_is(tmp_path, one_conv, make_context):
    proto = onnx.load(one_conv.path)
    for one in (proto.graph.input[0], proto.graph.output[0]):
        one.type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(proto, tmp_path / "fixed.onnx")
    context = make_context(numbers(np.arange(10.0)), axes={}, scheme=PLAIN)
    assert seen_range(Step(), read_onnx(tmp_path / "fixed.onnx"), context) >= 8


def test_calibration_data_is_streamed_and_not_read_further(one_conv, make_context, tmp_path):
    read = defaultdict(int)

    def passes():
        for _ in range(1000):
            read["samples"] += 4
            yield numbers(np.arange(4.0)), None

    context = Context(Split("calibrate", passes), {"batch": {"min": 1, "max": 4}}, PLAIN, tmp_path)
    Step(samples=40)(one_conv, context)
    assert 40 <= read["samples"] <= 48


@pytest.fixture
def heavy_tails(make_context):
    """20,000 numbers, a few of them far out, and their context."""
    values = np.random.default_rng(0).standard_t(2, 20_000)
    return values, make_context(numbers(values), {"batch": {"min": 1, "max": 5000}}, PLAIN)


def test_percentile_cuts_the_tails_at_the_percentile(one_conv, heavy_tails):
    values, context = heavy_tails
    step = Step(calibration="percentile", samples=20_000, percentile=99.0)
    low, high = np.quantile(values, (0.01, 0.99))
    assert seen_range(step, one_conv, context) < 1.5 * (high - low) < 0.2 * (values.max() - values.min())


def test_an_add_of_a_constant_is_a_bias(tmp_path, make_context):
    """Left in float where biases are: TensorRT refuses a scalar in int8, and a bias in int8 costs accuracy."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "b"], ["c"], "bias"),
        helper.make_node("Add", ["c", "a"], ["y"], "sum"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, 2, 2]) for name in ("x", "y")]
    random = np.random.default_rng(0)
    values = {"w": random.standard_normal((4, 4, 1, 1)), "b": random.standard_normal((4, 1, 1))}
    weights = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    x = random.standard_normal((32, 4, 2, 2)).astype(np.float32)
    for target, quantized in (("tensorrt", False), ("onnxruntime", True)):
        context = make_context({"x": x}, scheme=scheme_of(target))
        found = Graph(Step()(read_onnx(tmp_path / "m.onnx"), context).path)
        bias, total = found.of("Add")
        assert (found.behind(bias.input[1]) is not None) == quantized
        assert all(found.behind(name) is not None for name in total.input)


def test_a_sum_behind_matrix_products_stays_in_float(tmp_path, make_context):
    """Their kernels give float: rounding it for a sum would round twice, and gain nothing."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "x"], ["y"], "sum"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.standard_normal((4, 4)).astype(np.float32), "w")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "m.onnx")
    for target in targets.names():
        context = make_context({"x": random.standard_normal((32, 4)).astype(np.float32)}, scheme=scheme_of(target))
        found = Graph(Step()(read_onnx(tmp_path / "m.onnx"), context).path)
        assert len(found.of("QuantizeLinear")) == 1 and len(found.quantized_weights("MatMul")) == 1
        assert all(found.behind(name) is None for name in found.of("Add")[0].input)


@pytest.mark.parametrize("method", ["onnxruntime", "nncf"])
def test_wide_weights_have_8_bits_whatever_the_processor(tiny_onnx, image_context, method):
    narrow = scheme_of("openvino", "avx2")
    largest = {}
    for wide in (False, True):
        step = Step(method=method, samples=8, wide=wide)
        found = Graph(step(read_onnx(tiny_onnx), image_context(scheme=narrow)).path)
        largest[wide] = max(
            np.abs(found.values[back.input[0]].astype(int)).max() for _, back in found.quantized_weights("Conv", "Gemm")
        )
    assert largest[False] <= 64 < largest[True]
    assert Step(method=method, wide=True).title() == Step(method=method).title() + "-wide"


def test_nncf_keeps_to_seven_bits_in_convolutions_of_groups_too(uneven, make_context, tiny_data):
    context = make_context({"image": tiny_data[0]}, scheme=scheme_of("openvino", "avx2"))
    before, after = Graph(uneven.path), Graph(Step(method="nncf")(uneven, context).path)
    exact = {node.name: before.values[node.input[1]] for node in before.of("Conv", "Gemm")}
    largest = {}
    for user, node in after.quantized_weights("Conv", "Gemm"):
        numbers, scale = (after.values[node.input[place]].astype(float) for place in (0, 1))
        largest[user.name] = np.abs(numbers).max()
        steps = scale.reshape(-1, *[1] * (numbers.ndim - 1))
        assert (np.abs(numbers * steps - exact[user.name]) <= 0.76 * steps).all()
    assert "depthwise" in largest and all(32 < one <= 64 for one in largest.values())
    assert [note for note in context.notes if "in 8 bits" in note] == [
        "NNCF left the weights of 1 layers in 8 bits; their numbers were halved to be of 7"
    ]
