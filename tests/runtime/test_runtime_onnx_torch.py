"""ONNX graphs in torch: ONNX's own test cases, each answered rightly or refused, none wrongly."""

import warnings
from functools import cache
from importlib import import_module

import numpy as np
import pytest

from runtime.errors import EngineError

NEEDS = "pip install 'edge-optimize[executorch]'"
onnx = pytest.importorskip("onnx", reason=NEEDS)
torch = pytest.importorskip("torch", reason=NEEDS)

OnnxModule = import_module("runtime.onnx_torch").OnnxModule  # these import torch
OPS = import_module("runtime.onnx_torch.ops").OPS

# inputs that may be computed; of other ops only the first is, the rest are constants in a file
COMPUTED = {
    "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Sum", "Where", "Equal", "And", "Or", "Less", "Greater",
    "LessOrEqual", "GreaterOrEqual", "Concat", "MatMul",
}  # fmt: skip
KNOWN = {"DequantizeLinear", "ConstantOfShape", "Range"}
TIES = "_same_values"  # of equal values ONNX asks for the first, and torch says nothing


def array(value):
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def plain(value) -> bool:
    """Numbers of a format that numpy has itself."""
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf" and value.dtype.isbuiltin == 1


@cache
def cases():
    """Those whose ops are known here, by name."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():  # they divide by zero on purpose
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    return {
        case.name: case
        for case in found
        if case.model is not None
        and {node.op_type for node in case.model.graph.node} <= OPS.keys()
        and all(plain(array(one)) for part in case.data_sets[0] for one in part)
        and TIES not in case.name
    }


def answered(case, folder) -> bool:
    """Whether it is answered, as it must be; refused otherwise."""
    proto = onnx.ModelProto()
    proto.CopyFrom(case.model)
    given, wanted = ([array(one) for one in part] for part in case.data_sets[0])
    op = proto.graph.node[0].op_type
    if op == "LayerNormalization":  # the others are for training
        del proto.graph.node[0].output[1:], proto.graph.output[1:]
        wanted = wanted[:1]
    feeds = []
    for place, (value, numbers) in enumerate(zip(case.model.graph.input, given, strict=True)):
        if op in COMPUTED or (place == 0 and op not in KNOWN):
            feeds.append(torch.from_numpy(np.array(numbers)))
        else:
            proto.graph.input.remove(next(one for one in proto.graph.input if one.name == value.name))
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers), value.name))
    onnx.save(proto, folder / "case.onnx")
    try:
        found = OnnxModule(folder / "case.onnx")(*feeds)
    except EngineError as error:
        assert "cannot be brought to torch" in str(error)
        return False
    for got, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(got.numpy(), right, rtol=1e-4, atol=1e-5)
        assert got.numpy().dtype == right.dtype
    return True


@pytest.mark.parametrize("op", sorted(OPS.keys() - {"Upsample"}))  # of which ONNX has no cases any more
def test_an_op_answers_as_onnx_says_or_is_refused(op, tmp_path):
    own = [case for case in cases().values() if [node.op_type for node in case.model.graph.node] == [op]]
    assert any([answered(case, tmp_path) for case in own])  # each of them


def test_an_old_upsample_repeats(tmp_path):
    node = onnx.helper.make_node("Upsample", ["x", "scales"], ["y"], mode="nearest")
    ports = [onnx.helper.make_tensor_value_info(name, 1, [1, 1, n, n]) for name, n in (("x", 2), ("y", 4))]
    scales = onnx.numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales")
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:], [scales])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 9)]), tmp_path / "m.onnx")
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    (got,) = OnnxModule(tmp_path / "m.onnx")(torch.from_numpy(x))
    np.testing.assert_array_equal(got.numpy(), x.repeat(2, 2).repeat(2, 3))


def test_an_op_that_is_not_known_is_named(tmp_path):
    node = onnx.helper.make_node("Det", ["x"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [2, 2]), ("y", []))]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", ports[:1], ports[1:])), tmp_path / "m.onnx")
    with pytest.raises(EngineError, match=r"cannot be brought to torch here: Det\."):
        OnnxModule(tmp_path / "m.onnx")


def saved(folder, node, inputs, outputs, weights=(), opset=18):
    """A model of one node; inputs are names to shapes."""
    ports = [[onnx.helper.make_tensor_value_info(*one) for one in part] for part in (inputs, outputs)]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in weights]
    graph = onnx.helper.make_graph([node], "g", *ports, tensors)
    opsets = [onnx.helper.make_opsetid("", opset)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "m.onnx")
    return folder / "m.onnx"


def test_an_axis_without_a_name_is_open_all_the_same(tmp_path):
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    found = OnnxModule(saved(tmp_path, node, [("x", 1, [None, 3, "n"])], [("y", 1, [None, 3, "n"])]))
    assert found.inputs == {"x": ("float32", ("x_0", 3, "n"))}


def test_old_ops_have_numbers_as_attributes(tmp_path):
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2)
    ports = [("x", 1, [1, 2, 2, 2])], [("y", 1, None)]
    pad = onnx.helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, 1, 0, 0, 0, 0, 1], value=7.0)
    (got,) = OnnxModule(saved(tmp_path, pad, *ports, opset=7))(torch.from_numpy(x))
    np.testing.assert_array_equal(got.numpy(), np.pad(x, [(0, 0), (0, 0), (1, 0), (0, 1)], constant_values=7))
    upsample = onnx.helper.make_node("Upsample", ["x"], ["y"], mode="nearest", scales=[1.0, 1.0, 2.0, 3.0])
    (got,) = OnnxModule(saved(tmp_path, upsample, *ports, opset=7))(torch.from_numpy(x))
    np.testing.assert_array_equal(got.numpy(), x.repeat(2, 2).repeat(3, 3))


def test_a_scale_for_each_channel_of_what_is_computed_is_refused_in_words(tmp_path):
    node = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=1)
    weights = [("s", np.ones(3, np.float32)), ("z", np.zeros(3, np.int8))]
    module = OnnxModule(saved(tmp_path, node, [("x", 1, [2, 3])], [("y", 3, [2, 3])], weights))
    with pytest.raises(EngineError, match="it has a scale for each channel of what is computed"):
        module(torch.ones(2, 3))


def test_text_is_refused_by_name(tmp_path):
    node = onnx.helper.make_node("Identity", ["word"], ["y"])
    path = saved(tmp_path, node, [("word", onnx.TensorProto.STRING, ["n"])], [("y", onnx.TensorProto.STRING, ["n"])])
    with pytest.raises(EngineError, match="the input 'word' is text, which torch has not"):
        OnnxModule(path)
