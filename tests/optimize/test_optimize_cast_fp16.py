import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import targets
from optimize.models import read_onnx
from optimize.steps import _probes, get
from optimize.steps._probes import Probes
from optimize.steps.cast_fp16 import Step
from optimize.verify import judge, signal_to_noise
from runtime import host
from runtime.errors import StepError


def model(path, nodes, weights=None, shape=("batch", 8), opset=18, out=TensorProto.FLOAT, **attributes):
    """A graph from `x` to `y`; a node is (op, inputs, outputs) or (op, inputs, outputs, attributes)."""
    made = [helper.make_node(op, inputs, outputs, f"the_{outputs[0]}", **(more[0] if more else {}))
            for op, inputs, outputs, *more in nodes]  # fmt: skip
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", out, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    proto = onnx.shape_inference.infer_shapes(proto)
    onnx.save(proto, path)
    return read_onnx(path)


def kinds(found):
    """Node name to the dtype of its first output, as ONNX Runtime sees it."""
    proto = onnx.load(found.path)
    names = {node.output[0]: node.name for node in proto.graph.node}
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    types = {output.name: output.type for output in session.get_outputs()}
    return {node: types[name] for name, node in names.items()}


HALF, SINGLE = "tensor(float16)", "tensor(float)"


@pytest.fixture
def cast(make_context):
    """Cast a model; returns (the result, the notes)."""

    def run(before, x, **settings):
        context = make_context({"x": np.asarray(x, np.float32)})
        found = Step(**settings)(before, context)
        onnx.checker.check_model(onnx.load(found.path), full_check=True)
        assert [path.name for path in context.folder.iterdir()] == ["model.onnx"]
        return found, " / ".join(context.notes)

    return run


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- the model of the tests


@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "int8"])
def test_the_cast_model_is_nearly_the_same(quantized, tiny_onnx, tiny_data, image_context):
    scheme = targets.get("tensorrt").scheme("host", host.facts())
    before = read_onnx(tiny_onnx)
    if quantized:
        before = get("quantize_static")()(before, image_context(scheme=scheme))
    context = image_context(scheme=scheme)
    found = Step()(before, context)
    assert found.specs == before.specs
    feeds = {"image": tiny_data[0][:7]}
    assert 40 < signal_to_noise(judge(found).run(feeds), judge(before).run(feeds)) < 100
    proto = onnx.load(found.path)
    values = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    floats = [kind for kind in values.values() if kind in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    assert floats.count(TensorProto.FLOAT) == int(quantized)  # the scale of the input, which is float32
    types = kinds(found)
    assert {types[node.name] for node in proto.graph.node if node.op_type in ("Conv", "Gemm", "Relu")} == {HALF}
    if quantized:
        scales = [values[node.input[1]] for node in proto.graph.node if node.op_type.endswith("quantizeLinear")]
        assert set(scales) <= {TensorProto.FLOAT16}
        assert proto.opset_import[0].version == 19
        assert any("opset 18 to 19" in note for note in context.notes)
    else:
        assert found.path.stat().st_size < 0.75 * before.path.stat().st_size


def test_no_cast_comes_between_q_dq_and_the_op_that_they_serve(tiny_onnx, image_context):
    scheme = targets.get("tensorrt").scheme("host", host.facts())
    int8 = get("quantize_static")()(read_onnx(tiny_onnx), image_context(scheme=scheme))
    for settings in ({}, {"exclude": ("Conv",)}, {"keep_io": False}):
        proto = onnx.load(Step(**settings)(int8, image_context(scheme=scheme)).path)
        maker = {name: node for node in proto.graph.node for name in node.output}
        for node in proto.graph.node:
            above = {maker[name].op_type for name in node.input if name in maker}
            if node.op_type == "Cast":
                assert "DequantizeLinear" not in above
                assert "QuantizeLinear" not in above
            if node.op_type in ("Conv", "Gemm"):
                assert above == {"DequantizeLinear"}


def test_inputs_and_outputs_can_be_cast_too(tiny_onnx, tiny_data, image_context):
    found = Step(keep_io=False)(read_onnx(tiny_onnx), image_context())
    assert [spec.dtype for spec in (*found.specs.inputs, *found.specs.outputs)] == ["float16"] * 2
    assert not any(node.op_type == "Cast" for node in onnx.load(found.path).graph.node)
    got = judge(found).run({"image": tiny_data[0][:3].astype(np.float16)})
    wanted = judge(read_onnx(tiny_onnx)).run({"image": tiny_data[0][:3]})
    assert signal_to_noise({"output": got["output"].astype(np.float32)}, wanted) > 40


def test_what_is_in_fp16_already_stays_as_it_is(tiny_onnx, image_context, cast, tmp_path):
    half = Step(keep_io=False)(read_onnx(tiny_onnx), image_context())
    context = image_context()
    again = Step()(half, context)
    assert again.specs == half.specs
    assert again.path.read_bytes() == half.path.read_bytes()
    assert "stays as it is" in context.notes[0]


def test_what_is_in_fp16_in_part_can_be_cast_again(cast, tmp_path):
    before = model(tmp_path / "m.onnx", [("Sin", ["x"], ["a"]), ("Cos", ["a"], ["b"]), ("Relu", ["b"], ["y"])])
    x = normal(16, 8)
    part, _ = cast(before, x, exclude=("Cos",))
    whole, _ = cast(part, x)
    assert kinds(part)["the_b"] == SINGLE
    assert kinds(whole)["the_b"] == HALF
    assert signal_to_noise(judge(whole).run({"x": x}), judge(before).run({"x": x})) > 60


# --- what stays in float32


def test_large_values_stay_in_float32_and_are_named(cast, tmp_path):
    nodes = [("Mul", ["x", "big"], ["a"]), ("Mul", ["a", "small"], ["b"]), ("Relu", ["b"], ["y"])]
    before = model(tmp_path / "m.onnx", nodes, {"big": np.float32(3e4), "small": np.float32(1e-4)})
    x = np.clip(normal(32, 8), -3, 3)
    x[17, 3] = 5.0  # one value of one sample: 150,000
    found, notes = cast(before, x)
    types = kinds(found)
    assert (types["the_a"], types["the_b"]) == (SINGLE, SINGLE)  # who writes it and who reads it
    assert types["the_y"] == HALF
    assert "the_a (Mul: values to 1.5e+05)" in notes
    got, wanted = judge(found).run({"x": x}), judge(before).run({"x": x})
    assert signal_to_noise(got, wanted) > 60


def test_the_scan_looks_at_the_first_samples_only_and_leaves_headroom(cast, tmp_path):
    before = model(tmp_path / "m.onnx", [("Mul", ["x", "big"], ["a"]), ("Relu", ["a"], ["y"])], {"big": np.float32(1)})
    x = normal(32, 8)
    x[20, 0] = 4e4
    assert kinds(cast(before, x)[0])["the_a"] == SINGLE  # 40,000 is within fp16, but not twice that
    assert kinds(cast(before, x, headroom=1)[0])["the_a"] == HALF
    assert kinds(cast(before, x, samples=20)[0])["the_a"] == HALF


def test_the_scan_sees_every_batch(make_context, tmp_path, monkeypatch):
    """Ranges collected in passing are those of all the data at once."""
    before = model(tmp_path / "m.onnx", [("Exp", ["x"], ["y"])])
    x = normal(50, 8)
    x[7, 0], x[49, 7] = -9.0, 6.0
    for batch in (1, 7, 8, 50):
        monkeypatch.setattr(_probes, "BATCH", batch)
        probes = Probes(onnx.load(before.path))
        keys = probes.largest("x"), probes.largest("y"), probes.finite("y")
        found = probes.answer(make_context({"x": x}).calibrate, before.specs, 50, tmp_path)
        assert [found[key] for key in keys] == pytest.approx([9.0, np.exp(np.float32(6.0)), 0.0])


NORM = {"w": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}


@pytest.mark.parametrize(
    ("node", "weights", "shape", "small", "large"),
    [
        (("LayerNormalization", ["x", "w", "b"], ["y"]), NORM, ("batch", 8), 10, 100),
        (("LayerNormalization", ["x", "w", "b"], ["y"], {"axis": 1, "epsilon": 1e-9}), NORM, ("batch", 8), None, 1),
        (("ReduceL2", ["x"], ["y"], {"keepdims": 0}), {}, ("batch", 8), 10, 150),
        (("ReduceSum", ["x", "ax"], ["y"]), {"ax": np.array([1])}, ("batch", 8), 1000, 9000),
        (("ReduceMean", ["x", "ax"], ["y"]), {"ax": np.array([1])}, ("batch", 8), 1000, 9000),
        (("GlobalAveragePool", ["x"], ["y"]), {}, ("batch", 2, 4, 4), 500, 5000),
        (("InstanceNormalization", ["x", "w", "b"], ["y"]), {k: v[:2] for k, v in NORM.items()},
         ("batch", 2, 4, 4), 10, 100),
        (("AveragePool", ["x"], ["y"], {"kernel_shape": [4, 4]}), {}, ("batch", 2, 4, 4), 500, 5000),
    ],
)  # fmt: skip
def test_sums_stay_in_float32_where_the_data_makes_them_too_large(cast, tmp_path, node, weights, shape, small, large):
    before = model(tmp_path / "m.onnx", [node, ("Relu", ["y"], ["z"])], weights, shape)
    for size, kind in ((small, HALF), (large, SINGLE)):
        if size is None:
            continue
        x = np.full((16, *shape[1:]), size, np.float32) * (1 + 0.1 * np.sign(normal(16, *shape[1:])))
        found, notes = cast(before, x)
        types = kinds(found)
        assert types["the_y"] == kind if kind == SINGLE else HALF in (types["the_y"], types.get("y__f16_cast", HALF))
        assert ("the_y" in notes) == (kind == SINGLE), notes


@pytest.mark.parametrize(("width", "kind"), [(2048, False), (2049, True)])
@pytest.mark.parametrize("op", ["Softmax", "ReduceMean"])
def test_wide_sums_stay_in_float32(cast, tmp_path, op, width, kind):
    inputs, weights = (["x"], {}) if op == "Softmax" else (["x", "ax"], {"ax": np.array([1])})
    before = model(tmp_path / "m.onnx", [(op, inputs, ["y"])], weights, ("batch", width))
    _, notes = cast(before, normal(4, width))
    assert ("sums of 2049 terms" in notes) == kind


def test_constants_that_fp16_has_not_keep_their_ops_in_float32(cast, tmp_path):
    nodes = [
        ("Add", ["x", "tiny"], ["a"]),
        ("Max", ["a", "lowest"], ["b"]),
        ("Clip", ["b", "", "highest"], ["c"]),
        ("Mul", ["c", "fine"], ["y"]),
    ]
    weights = {"tiny": np.float32(1e-12), "lowest": np.float32(-3e38), "highest": np.float32(3e38),
               "fine": np.array([0.0] * 7 + [0.5], np.float32)}  # fmt: skip
    found, notes = cast(model(tmp_path / "m.onnx", nodes, weights), normal(16, 8))
    types = kinds(found)
    assert [types[f"the_{name}"] for name in "ab"] == [SINGLE] * 2
    assert types["the_c"] == HALF  # a bound over fp16's largest is none
    assert "the_a (Add: a constant of 1e-12)" in notes
    assert "the_b (Max: a constant over 65504)" in notes


def test_a_scale_too_small_for_fp16_stays(cast, tmp_path):
    nodes = [("QuantizeLinear", ["x", "s", "z"], ["q"]), ("DequantizeLinear", ["q", "s", "z"], ["d"]),
             ("Add", ["d", "one"], ["a"]), ("Relu", ["a"], ["y"])]  # fmt: skip
    for scale, kind in ((1e-2, HALF), (1e-6, SINGLE)):
        weights = {"s": np.float32(scale), "z": np.int8(0), "one": np.float32(1)}
        found, _ = cast(model(tmp_path / "m.onnx", nodes, weights, opset=19), normal(16, 8) * scale * 100)
        assert kinds(found)["the_d"] == kinds(found)["the_a"] == kind


def test_weights_of_channels_that_are_nearly_zero_get_coarser_steps(cast, tmp_path):
    """As trained networks have them: three channels, of which fp16 could not hold the scale of two."""
    random = np.random.default_rng(0)
    stored = random.integers(-127, 128, (3, 8), np.int8)
    scale = np.array([1e-2, 3e-7, 1e-12], np.float32)
    nodes = [
        ("DequantizeLinear", ["w", "s", "z"], ["d"], {"axis": 0}),
        ("Transpose", ["d"], ["t"]),
        ("MatMul", ["x", "t"], ["y"]),
    ]
    weights = {"w": stored, "s": scale, "z": np.zeros(3, np.int8)}
    before = model(tmp_path / "m.onnx", nodes, weights, opset=19)
    x = normal(16, 8)
    found, _ = cast(before, x)
    assert kinds(found)["the_d"] == kinds(found)["the_t"] == HALF
    graph = onnx.load(found.path).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    data, steps = (values[name] for name in graph.node[0].input[:2])
    assert steps.dtype == np.float16
    assert (steps > 0).all()
    np.testing.assert_array_equal(data[0], stored[0])
    np.testing.assert_array_less(np.abs(data * steps.astype(float)[:, None] - stored * scale[:, None])[1:], 1e-5)
    assert signal_to_noise(judge(found).run({"x": x}), judge(before).run({"x": x})) > 55


def test_what_is_excluded_stays_by_name_by_op_and_by_pattern(cast, tmp_path):
    nodes = [("Sin", ["x"], ["a[0]"]), ("Cos", ["a[0]"], ["b"]), ("Relu", ["b"], ["y"])]
    before = model(tmp_path / "m.onnx", nodes)
    for pattern, kept in (("the_a[0]", {"the_a[0]"}), ("Cos", {"the_b"}), ("the_*", {"the_a[0]", "the_b", "the_y"})):
        found, notes = cast(before, normal(16, 8), exclude=(pattern,))
        for name, kind in kinds(found).items():
            if name.startswith("the_") and name != "the_y":
                assert kind == (SINGLE if name in kept else HALF)
        assert "excluded" in notes


def test_inner_graphs_are_left_as_they_are_and_still_find_what_they_read(cast, tmp_path):
    """The branches read `a` and `w` from outside, which are fp16 there."""
    branches = {}
    for name, op in (("then_branch", "Add"), ("else_branch", "Mul")):
        node = helper.make_node(op, ["a", "w"], [name], f"inner_{op}")
        branches[name] = helper.make_graph([node], name, [], [helper.make_tensor_value_info(name, 1, None)])
    nodes = [
        ("Mul", ["x", "w"], ["a"]),
        ("ReduceSum", ["x"], ["s"], {"keepdims": 0}),
        ("Greater", ["s", "zero"], ["c"]),
        ("If", ["c"], ["i"], branches),
        ("Relu", ["i"], ["y"]),
    ]
    weights = {"w": np.float32(1.5), "zero": np.float32(0.25)}
    before = model(tmp_path / "m.onnx", nodes, weights)
    x = normal(16, 8)
    found, _ = cast(before, x)
    for sign in (-1, 1):
        feeds = {"x": sign * np.abs(x)}
        assert signal_to_noise(judge(found).run(feeds), judge(before).run(feeds)) > 60
    assert kinds(found)["the_i"] == SINGLE
    assert kinds(found)["the_a"] == HALF


def test_casts_and_whole_numbers_in_the_graph_come_through(cast, tmp_path):
    nodes = [
        ("Cast", ["x"], ["whole"], {"to": TensorProto.INT64}),
        ("Cast", ["whole"], ["back"], {"to": TensorProto.FLOAT}),
        ("Shape", ["x"], ["shape"]),
        ("ConstantOfShape", ["shape"], ["zeros"], {"value": helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5])}),
        ("Constant", [], ["half"], {"value": numpy_helper.from_array(np.float32(0.25))}),
        ("Add", ["back", "zeros"], ["a"]),
        ("Mul", ["a", "half"], ["y"]),
    ]
    before = model(tmp_path / "m.onnx", nodes)
    x = 10 * normal(16, 8)
    found, _ = cast(before, x)
    assert kinds(found)["the_back"] == HALF
    assert kinds(found)["the_zeros"] == SINGLE
    assert signal_to_noise(judge(found).run({"x": x}), judge(before).run({"x": x})) > 60


def test_an_output_that_is_an_input_of_others_too_is_both(cast, tmp_path):
    nodes = [("Sin", ["x"], ["y"]), ("Cos", ["y"], ["z"])]
    found, _ = cast(model(tmp_path / "m.onnx", nodes), normal(16, 8))
    assert [spec.dtype for spec in found.specs.outputs] == ["float32"]


# --- what is refused


def test_an_op_that_gives_nan_in_fp16_is_named(cast, tmp_path):
    """Two numbers that become 0 in fp16, and their ratio: 1 in float32. No value is large, so the scan sees nothing."""
    nodes = [("Mul", ["x", "s"], ["a"]), ("Mul", ["x", "s"], ["b"]), ("Div", ["a", "b"], ["y"])]
    before = model(tmp_path / "m.onnx", nodes, {"s": np.full(8, 1e-9, np.float32)})
    x = 1 + np.abs(normal(16, 8))
    with pytest.raises(StepError, match=r"'the_y' \(Div\) gives NaN or infinity in fp16.*exclude = \['the_y'\]"):
        cast(before, x)
    found, _ = cast(before, x, exclude=("the_a", "the_b", "the_y"))
    np.testing.assert_allclose(judge(found).run({"x": x})["y"], 1, rtol=1e-3)


def test_infinity_that_was_there_before_is_no_error(cast, tmp_path):
    nodes = [("Log", ["x"], ["a"]), ("Exp", ["a"], ["y"])]
    found, notes = cast(model(tmp_path / "m.onnx", nodes), np.zeros((8, 8)))
    assert kinds(found)["the_a"] == SINGLE
    assert "the_a (Log: values to inf)" in notes


def test_a_model_that_cannot_be_raised_is_refused(tmp_path, make_context):
    nodes = [helper.make_node("ImageScaler", ["x"], ["a"], "old", bias=[0.0, 0.0], scale=1.0),
             helper.make_node("Relu", ["a"], ["y"], "r")]  # fmt: skip
    ends = [helper.make_tensor_value_info(name, 1, ("batch", 2, 4, 4)) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=4), tmp_path / "m.onnx")
    with pytest.raises(StepError, match="opset 7"):
        Step()(read_onnx(tmp_path / "m.onnx"), make_context({"x": normal(8, 2, 4, 4)}))


def test_a_fixed_batch_is_kept(cast, tmp_path):
    before = model(tmp_path / "m.onnx", [("Sin", ["x"], ["y"])], shape=(3, 8))
    found, _ = cast(before, normal(10, 8))
    assert found.specs == before.specs
