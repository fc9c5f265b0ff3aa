import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from optimize.steps._affine import fold


def graph(nodes, kernel=(6, 2, 3, 3), dtype=np.float32, outputs=("y",), **shapes):
    """A convolution of two groups and what is behind it, each weight by its shape."""
    draw = np.random.default_rng(0)
    value, kind = helper.make_tensor_value_info, helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = {name: draw.standard_normal(shape).astype(dtype) for name, shape in {"w": kernel, **shapes}.items()}
    conv = helper.make_node("Conv", ["x", "w", *(["b"] if "b" in shapes else [])], ["c"], group=2)
    return helper.make_model(
        helper.make_graph(
            [conv, *(helper.make_node(op, inputs, [out]) for op, inputs, out in nodes)],
            "convolution",
            [value("x", kind, ["batch", 4, 8, 8])],
            [value(name, kind, None) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def kinds(proto):
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("bias", [{}, {"b": (6,)}])
def test_scales_and_shifts_go_into_the_convolution(bias):
    nodes = [("Sub", ["c", "mean"], "d"), ("Mul", ["scale", "d"], "e"), ("Add", ["e", "beta"], "f"),
             ("Mul", ["f", "all"], "g"), ("Relu", ["g"], "y")]  # fmt: skip
    proto = graph(nodes, mean=(1, 6, 1, 1), scale=(6, 1, 1), beta=(1, 6, 1, 1), all=(), **bias)
    x = np.random.default_rng(1).standard_normal((3, 4, 8, 8)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    assert fold(proto) == 4
    assert kinds(proto) == ["Conv", "Relu"] and len(proto.graph.initializer) == 2
    (found,) = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "more"),
    [
        ([("Add", ["c", "v"], "y")], {"v": (6,)}),  # along the width
        ([("Mul", ["c", "v"], "y")], {"v": (1, 6, 6, 6)}),
        ([("Mul", ["c", "v"], "y")], {"v": (1, 1, 6, 1, 1)}),  # the answer has more axes
        ([("Sub", ["v", "c"], "y")], {"v": (6, 1, 1)}),
        ([("Div", ["c", "v"], "y")], {"v": (6, 1, 1)}),
        ([("Mul", ["c", "c"], "y")], {}),
        ([("Add", ["c", "v"], "d"), ("Mul", ["c", "d"], "y")], {"v": (6, 1, 1)}),
        ([("Add", ["c", "v"], "y")], {"v": (6, 1, 1), "outputs": ("c", "y")}),
        ([("Add", ["c", "v"], "y")], {"v": (6, 1, 1), "dtype": np.float16}),
    ],
)
def test_what_is_of_another_form_stays(nodes, more):
    proto = graph(nodes, **more)
    before = kinds(proto)
    assert fold(proto) == 0 and kinds(proto) == before
    assert {one.data_type for one in proto.graph.initializer} <= {TensorProto.FLOAT, TensorProto.FLOAT16}
