import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from optimize.models import read_onnx
from optimize.steps._transposes import sink
from optimize.steps.simplify import Step
from optimize.verify import judge

LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # where the channels go


def model(nodes, outputs, weights):
    value = helper.make_tensor_value_info
    return helper.make_model(
        helper.make_graph(
            nodes,
            "transposed",
            [value("x", TensorProto.FLOAT, ["batch", 4, 4, 4])],
            [value(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def kinds(proto):
    return [node.op_type for node in proto.graph.node]


def transposed(source, name, perm):
    return helper.make_node("Transpose", [source], [name], perm=perm)


def answers(proto, x):
    return ReferenceEvaluator(proto).run(None, {"x": x})


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_batch_norms_of_keras_go_into_their_convolutions(make_context, tmp_path):
    """Two blocks with channels last, and a sum around the second."""
    node, nodes, weights, source = helper.make_node, [], {}, "x"
    for i in "12":
        nodes += [
            transposed(source, f"first{i}", FIRST),
            node("Conv", [f"first{i}", f"kernel{i}"], [f"conv{i}"], pads=[1, 1, 1, 1]),
            transposed(f"conv{i}", f"last{i}", LAST),
            node("Sub", [f"last{i}", f"mean{i}"], [f"sub{i}"]),
            node("Mul", [f"sub{i}", f"scale{i}"], [f"mul{i}"]),
            node("Add", [f"beta{i}", f"mul{i}"], [f"norm{i}"]),
            node("Relu", [f"norm{i}"], [f"relu{i}"]),
        ]
        weights[f"kernel{i}"] = random(1, 4, 4, 3, 3)
        weights |= {f"{name}{i}": random(2, 1, 1, 1, 4) for name in ("mean", "scale", "beta")}
        source = f"relu{i}"
    nodes += [node("Add", ["relu1", "relu2"], ["sum"]), transposed("sum", "back", FIRST)]
    nodes += [node("GlobalMaxPool", ["back"], ["y"])]
    path = tmp_path / "keras.onnx"
    onnx.save(model(nodes, ["y"], weights), path)
    before, context = read_onnx(path), make_context({"x": random(0, 16, 4, 4, 4)})
    found = Step()(before, context)
    assert context.notes == []
    left = kinds(onnx.load(found.path))
    assert left == ["Transpose", "Conv", "Relu", "Conv", "Relu", "Add", "GlobalMaxPool"]
    x = random(3, 5, 4, 4, 4)
    np.testing.assert_allclose(judge(found).run({"x": x})["y"], judge(before).run({"x": x})["y"], rtol=1e-5, atol=1e-5)


def test_a_graph_in_which_none_would_go_is_left_as_it_is():
    proto = model([transposed("x", "a", FIRST), helper.make_node("Relu", ["a"], ["y"])], ["y"], {})
    before = proto.SerializeToString()
    assert not sink(proto) and proto.SerializeToString() == before


def test_what_is_read_as_it_was_is_still_there():
    """By an output, and by a graph inside a node; a tensor that two inverse Transposes leave alone among them."""
    inside = helper.make_graph(
        [helper.make_node("Identity", ["relu"], ["branch"])], "inside", [],
        [helper.make_tensor_value_info("branch", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        transposed("x", "a", FIRST),
        helper.make_node("Relu", ["a"], ["relu"]),
        transposed("relu", "same", LAST),
        transposed("same", "again", FIRST),
        transposed("again", "back", LAST),
        helper.make_node("If", ["yes"], ["z"], then_branch=inside, else_branch=inside),
    ]
    proto = model(nodes, ["relu", "back", "z"], {})
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    x = random(0, 2, 4, 4, 4)
    wanted = answers(proto, x)
    assert sink(proto) and kinds(proto) == ["Relu", "Transpose", "If", "Identity"]
    for one, other in zip(answers(proto, x), wanted, strict=True):
        np.testing.assert_array_equal(one, other)


STEPS = st.lists(
    st.tuples(st.sampled_from(["Transpose", "Relu", "Add", "Sub", "Clip", "Softmax"]), st.permutations(range(4)),
              st.integers(0, 9), st.sampled_from([(), (4,), (4, 1), (1, 4, 1, 1), (4, 1, 4)])),
    min_size=1, max_size=9,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sets(st.integers(0, 9), max_size=2))
def test_any_graph_answers_as_before(steps, outputs):
    names, nodes, weights = ["x"], [], {"low": -1.0, "high": 0.5}
    for index, (op, perm, other, shape) in enumerate(steps):
        source, name, weight = names[-1], f"t{index}", f"w{index}"
        if op == "Transpose":
            nodes.append(transposed(source, name, perm))
        elif op == "Add":  # of two tensors
            nodes.append(helper.make_node(op, [source, names[other % len(names)]], [name]))
        elif op == "Sub":
            weights[weight] = random(index, *shape)
            nodes.append(helper.make_node(op, [weight, source], [name]))
        else:
            nodes.append(helper.make_node(op, [source, *(["low", "high"] if op == "Clip" else [])], [name]))
        names.append(name)
    shown = sorted({names[-1], *(names[1 + one % len(steps)] for one in outputs)})
    proto = model(nodes, shown, weights)
    x = random(99, 4, 4, 4, 4)
    wanted, before = answers(proto, x), kinds(proto).count("Transpose")
    assert sink(proto) == (kinds(proto).count("Transpose") < before)
    for one, other in zip(answers(proto, x), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
