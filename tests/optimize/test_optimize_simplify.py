import numpy as np
import onnx
import onnxslim
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.models import read_onnx
from optimize.steps.simplify import Step
from optimize.verify import judge
from runtime import engines
from runtime.tensors import TensorSpec


@pytest.fixture
def clumsy(tmp_path):
    """(x + (1 + 1)) * 1, with an identity: all of it can be folded into one Add."""
    nodes = [
        helper.make_node("Add", ["one", "one"], ["two"]),
        helper.make_node("Identity", ["x"], ["same"]),
        helper.make_node("Add", ["same", "two"], ["y"]),
    ]
    shape = ["batch", 4]
    graph = helper.make_graph(
        nodes,
        "clumsy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.ones(4, np.float32), "one")],
    )
    path = tmp_path / "clumsy.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return read_onnx(path)


@pytest.fixture
def context(make_context):
    return make_context({"x": np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)})


def test_simplify_leaves_fewer_nodes_that_compute_the_same(clumsy, context):
    found = Step()(clumsy, context)
    assert [node.op_type for node in onnx.load(found.path).graph.node] == ["Add"]
    assert found.specs == clumsy.specs and context.notes == [] and found.path.parent == context.folder
    x = np.random.default_rng(1).standard_normal((9, 4)).astype(np.float32)
    np.testing.assert_array_equal(judge(found).run({"x": x})["y"], judge(clumsy).run({"x": x})["y"])


@pytest.mark.parametrize(("shape", "said"), [(None, ("batch", 4)), ([None, 4], ("y_0", 4)), (["rows", 4], ("rows", 4))])
def test_outputs_have_the_axes_that_the_file_declares_or_those_worked_out(clumsy, context, shape, said):
    proto = onnx.load(clumsy.path)
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, shape))
    onnx.save(proto, clumsy.path)
    given = read_onnx(clumsy.path)
    found = Step()(given, context)
    assert context.notes == [] and len(onnx.load(found.path).graph.node) == 1
    assert found.specs.outputs == (TensorSpec("y", "float32", said),)


def test_an_axis_of_an_input_stays_without_a_name(clumsy, context):
    proto = onnx.load(clumsy.path)
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4]))
    onnx.save(proto, clumsy.path)
    given = read_onnx(clumsy.path)
    found = Step()(given, context)
    assert context.notes == [] and found.specs.inputs == given.specs.inputs


def changed_weights(proto):
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.1, tensor.name))
    return proto


def renamed_output(proto):
    proto.graph.output[0].name = proto.graph.node[-1].output[0] = "z"
    return proto


def fixed_batch(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return proto


def invalid(proto):
    proto.graph.node[-1].op_type = "NoSuchOp"
    return proto


def raises(proto):
    raise KeyError("a node that it does not know")


@pytest.mark.parametrize(
    ("slim", "message"),
    [
        (changed_weights, "at batch 1 the output 'y' differs by"),
        (renamed_output, "its inputs or outputs changed"),
        (fixed_batch, "its inputs or outputs changed"),
        (invalid, "ONNX Runtime cannot load"),
        (raises, "a node that it does not know"),
    ],
)
def test_simplify_is_rolled_back_where_the_result_is_another_model(clumsy, context, monkeypatch, slim, message):
    monkeypatch.setattr(onnxslim, "slim", slim)
    before = clumsy.path.read_bytes()
    found = Step()(clumsy, context)
    assert found == clumsy and found.path.read_bytes() == before
    assert len(context.notes) == 1 and context.notes[0].startswith("simplify was rolled back: ")
    assert message in context.notes[0]


def test_a_small_difference_is_accepted_within_the_tolerance_asked_for(clumsy, context, monkeypatch):
    monkeypatch.setattr(onnxslim, "slim", changed_weights)
    assert Step(tolerance=0.5)(clumsy, context).path.parent == context.folder and context.notes == []


def test_gelu_has_the_form_that_onnx_runtime_fuses(make_context, tmp_path):
    """x (0.5 (1 + erf)), as torch writes the functional form."""
    node, ends = helper.make_node, [helper.make_tensor_value_info(name, 1, ["batch", 4]) for name in ("x", "y")]
    values = {"half": 0.5, "one": 1.0, "root": np.sqrt(2)}
    graph = helper.make_graph(
        [node("Div", ["x", "root"], ["a"]), node("Erf", ["a"], ["b"]), node("Add", ["b", "one"], ["c"]),
         node("Mul", ["half", "c"], ["d"]), node("Mul", ["x", "d"], ["y"])],
        "gelu", ends[:1], ends[1:],
        [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in values.items()],
    )  # fmt: skip
    path = tmp_path / "gelu.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    model = read_onnx(path)
    found = Step()(model, make_context({"x": x}))
    for one, kinds in ((model, {"Div", "Erf", "Add", "Mul"}), (found, {"Gelu"})):
        engine = engines.get("onnxruntime").compile(one.path, tmp_path, {"spinning": False})["model"]
        assert {node.op_type for node in onnx.load(engine).graph.node} == kinds
    assert np.abs(judge(found).run({"x": x})["y"] - judge(model).run({"x": x})["y"]).max() < 1e-6
