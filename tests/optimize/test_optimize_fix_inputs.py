"""Inputs fixed at a number, open axes at a size, conditions that are decided by it, states behind the others."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize.models import read_onnx
from optimize.recipe import from_table
from optimize.sources import ModelSpec, load
from optimize.steps.fix_inputs import Step
from optimize.verify import judge
from runtime.errors import InputError, StepError

X = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def branched(tmp_path_factory):
    """`h`, `rate`, `x` -> `y`: x + h doubled where the rate is 16,000, else negated."""
    branches = [
        helper.make_graph(
            [helper.make_node("Mul", ["sum", name], [f"out_{name}"])], name,
            [], [helper.make_tensor_value_info(f"out_{name}", TensorProto.FLOAT, ["batch", 4])],
        )
        for name in ("two", "minus")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Add", ["x", "h"], ["sum"]),
        helper.make_node("Equal", ["rate", "wide"], ["is_wide"]),
        helper.make_node("If", ["is_wide"], ["y"], then_branch=branches[0], else_branch=branches[1]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("h", "x", "y")]
    ends.insert(1, helper.make_tensor_value_info("rate", TensorProto.INT64, []))
    weights = [
        numpy_helper.from_array(value, name)
        for name, value in (("two", np.float32(2)), ("minus", np.float32(-1)), ("wide", np.int64(16000)))
    ]
    graph = helper.make_graph(nodes, "branched", ends[:3], ends[3:], weights)
    path = tmp_path_factory.mktemp("branched") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return read_onnx(path)


@pytest.mark.parametrize(("rate", "factor"), [(16000, 2), (8000, -1)])
def test_what_is_fixed_is_taken_no_more_and_its_conditions_are_decided(branched, make_context, rate, factor):
    context = make_context({"x": X, "h": X})
    made = Step(values={"rate": rate}, behind=("h",))(branched, context)
    assert [str(spec) for spec in made.specs.inputs] == ["x: float32[batch, 4]", "h: float32[batch, 4]"]
    assert {node.op_type for node in onnx.load(made.path).graph.node} == {"Add", "Mul"}
    found = judge(made).run({"x": X, "h": X})["y"]
    np.testing.assert_allclose(found, 2 * X * factor, rtol=1e-6)
    assert context.notes == [f"'rate' is fixed at {rate}"]


def test_open_axes_take_the_size_that_is_said(branched, make_context):
    context = make_context({"x": X, "h": X})
    made = Step(values={"rate": 16000}, shapes={"x": (1, 4), "h": (1, 4)})(branched, context)
    assert [spec.shape for spec in (*made.specs.inputs, *made.specs.outputs)] == [(1, 4)] * 3


def test_the_original_gets_the_number_at_each_call(branched):
    spec = ModelSpec("onnx", str(branched.path), fixed={"rate": 8000}, states={"h": "y"})
    original = load(spec)
    assert [one.name for one in original.inputs] == ["x", "h"]
    session = original.open()
    np.testing.assert_allclose(session.run({"x": X, "h": X})["y"], -2 * X, rtol=1e-6)
    session.inside({"x": X, "h": X})()
    assert session.threads >= 1 and session.precision()
    session.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fixed": {"rat": 1}}, r"unknown input to fix 'rat'"),
        ({"fixed": {"x": 1}}, r"x: float32\[batch, 4\] cannot be fixed at 1: its shape is open"),
        ({"fixed": {"rate": 0.5}}, r"rate: int64\[\] cannot be fixed at 0.5"),
        (
            {"inputs": {"x": {"shape": [1, 5]}}},
            r"\[model.inputs\] may name or fix its open axes, and has x: float32\[1, 5\]",
        ),
        ({"inputs": {"x": {"shape": [1, 4], "dtype": "int64"}}}, r"\[model.inputs\] may name or fix its open axes"),
        ({"inputs": {"z": {"shape": [1, 4]}}}, r"unknown input of the file 'z'"),
    ],
)
def test_what_the_file_has_not_is_refused(branched, tmp_path, changes, said):
    table = {
        "model": {"path": str(branched.path), **changes}, "data": {"path": "data.npz"}, "targets": {"onnxruntime": {}},
    }  # fmt: skip
    with pytest.raises(InputError, match=said):
        load(from_table(table, tmp_path).model_spec())


def test_the_step_refuses_likewise(branched, make_context):
    with pytest.raises(StepError, match=r"unknown input to fix 'rat'"):
        Step(values={"rat": 1})(branched, make_context({"x": X, "h": X}))
