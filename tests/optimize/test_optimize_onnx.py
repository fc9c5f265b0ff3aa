"""ONNX files as a source: what is written anew, what is refused, what every opset and kind of graph comes to."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize import sources
from optimize.flags import to_recipe
from optimize.models import read_onnx
from optimize.origin import origin
from optimize.progress import Progress
from optimize.sources import ModelSpec
from optimize.steps import get
from optimize.subject import prepare
from runtime.contender import Worker
from runtime.errors import InputError, StepError
from runtime.tensors import TensorSpec
from targets import Scheme

FLOAT, STRING = TensorProto.FLOAT, TensorProto.STRING
W = np.arange(12, dtype=np.float32).reshape(4, 3)


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def write(folder, nodes, inputs=None, outputs=None, weights=(), opset=18, ir=9, domains=(), functions=()):
    graph = helper.make_graph(
        nodes, "graph", inputs or [value("x", ["batch", 4])], outputs or [value("y", None)],
        [numpy_helper.from_array(one, name) for name, one in weights],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(name, 1) for name in domains)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))
    folder.mkdir(exist_ok=True)
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


def load(path):
    return sources.load(ModelSpec("onnx", str(path)))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path_factory.mktemp("cache")))


def product():
    return [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]


X = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)


# external data


def test_weights_in_any_file_beside_it_are_read_and_belong_to_the_model(tmp_path):
    path = write(tmp_path, product(), weights=[("w", W)])
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    first = load(path)
    assert first.model != path and first.notes == ()
    np.testing.assert_allclose(first.open().run({"x": X})["y"], X @ W, rtol=1e-5)
    data = tmp_path / "weights.bin"
    data.write_bytes((W * 2).tobytes())  # the same .onnx with other weights is another model
    second = load(path)
    np.testing.assert_allclose(second.open().run({"x": X})["y"], X @ W * 2, rtol=1e-5)
    assert origin(read_onnx(first.model)) != origin(read_onnx(second.model))


# opsets


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 20, 23, 25, 26])
def test_opsets_that_are_run_are_left_as_they_are(tmp_path, opset):
    path = write(tmp_path, product(), weights=[("w", W)], opset=opset, ir=13 if opset > 20 else 8)
    original = load(path)
    assert original.model == path and original.notes == ()
    np.testing.assert_allclose(original.open().run({"x": X})["y"], X @ W, rtol=1e-5)


def test_an_opset_that_onnx_runtime_has_not_is_raised_and_compared(tmp_path):
    nodes = [helper.make_node("Add", ["x", "b"], ["s"], broadcast=0), helper.make_node("Relu", ["s"], ["y"])]
    path = write(tmp_path, nodes, [value("x", [2, 4])], [value("y", [2, 4])], [("b", X)], opset=6, ir=3)
    original = load(path)
    assert original.model != path and original.notes[0].startswith("raised from opset 6 to 7, ")
    np.testing.assert_allclose(original.open().run({"x": X})["y"], np.maximum(X + X, 0), rtol=1e-6)


def test_an_opset_that_cannot_be_raised_is_refused(tmp_path):
    nodes = [helper.make_node("Add", ["x", "b"], ["y"], broadcast=1, axis=1)]
    shape = [2, 3, 4]  # onnx's converter has a wrong assertion for an axis in the middle
    weights = [("b", np.ones(3, np.float32))]
    path = write(tmp_path, nodes, [value("x", shape)], [value("y", shape)], weights, opset=6, ir=3)
    with pytest.raises(InputError, match=r"of an opset that ONNX Runtime does not run, and onnx cannot raise it to 7"):
        load(path)


@pytest.mark.parametrize(
    ("opset", "ir", "message"),
    [(99, 9, r"has opset 99; onnx .* knows them up to \d+: pip install -U onnx onnxruntime"),
     (18, 99, r"has IR version 99; onnx .* knows them up to \d+: pip install -U onnx onnxruntime")],
)  # fmt: skip
def test_what_is_newer_than_the_package_is_refused(tmp_path, opset, ir, message):
    with pytest.raises(InputError, match=message):
        load(write(tmp_path, product(), weights=[("w", W)], opset=opset, ir=ir))


# ops


def test_an_op_of_a_foreign_domain_is_named_with_its_node(tmp_path):
    node = helper.make_node("NegPos", ["x"], ["y"], name="split", domain="ai.onnx.contrib")
    with pytest.raises(InputError, match=r"has the op NegPos of the domain 'ai\.onnx\.contrib' \(node 'split'\)"):
        load(write(tmp_path, [node], domains=["ai.onnx.contrib"]))
    branch = helper.make_graph([node], "branch", [], [value("y", None)])
    fork = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch)
    with pytest.raises(InputError, match="NegPos"):
        load(write(tmp_path, [fork], [value("x", [4]), value("c", [], TensorProto.BOOL)], [value("z", None)]))


def test_functions_of_the_file_are_its_own(tmp_path):
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    node = helper.make_node("Twice", ["x"], ["y"], domain="own")
    original = load(write(tmp_path, [node], domains=["own"], functions=[twice]))
    np.testing.assert_array_equal(original.open().run({"x": X})["y"], X + X)


def test_formats_that_numpy_has_not_are_refused_by_name(tmp_path):
    node = helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)
    with pytest.raises(InputError, match=r"'y' is of bfloat16, which numpy has not"):
        load(write(tmp_path, [node], outputs=[value("y", ["batch", 4], TensorProto.BFLOAT16)]))


# control flow, text, and what is quantized already


def test_a_graph_that_forks_is_simplified_and_keeps_both_ways(tmp_path, make_context):
    ways = [
        helper.make_graph([helper.make_node(op, ["x"], ["way"])], op, [], [value("way", ["batch", 4])])
        for op in ("Abs", "Neg")
    ]
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "zero"], ["negative"]),
        helper.make_node("If", ["negative"], ["y"], then_branch=ways[0], else_branch=ways[1]),
    ]
    original = load(write(tmp_path, nodes, outputs=[value("y", ["batch", 4])], weights=[("zero", np.float32(0))]))
    context = make_context({"x": X})
    found = get("simplify")()(read_onnx(original.model), context)
    assert context.notes == []
    session = sources.load(ModelSpec("onnx", str(found.path))).open()
    for x, wanted in ((np.abs(X), -np.abs(X)), (-np.abs(X), np.abs(X))):
        np.testing.assert_array_equal(session.run({"x": x})["y"], wanted)


def test_text_goes_in_and_comes_out(tmp_path):
    node = helper.make_node("StringConcat", ["word", "end"], ["y"])
    path = write(tmp_path, [node], [value("word", ["batch"], STRING)], [value("y", ["batch"], STRING)], opset=20,
                 weights=[("end", np.array(["!"], object))])  # fmt: skip
    assert load(path).inputs == (TensorSpec("word", "str", ("batch",)),)
    with Worker.start(ModelSpec("onnx", str(path)).contender(), {"word": np.array(["red", "blue"])}) as worker:
        assert worker.outputs["y"].tolist() == ["red!", "blue!"]


@pytest.mark.parametrize("step", ["quantize_static", "quantize_dynamic", "quantize_weights"])
def test_what_is_quantized_already_is_not_quantized_again(tmp_path, make_context, step):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]
    weights = [("w", W), ("s", np.float32(0.1)), ("z", np.uint8(128))]
    model = read_onnx(load(write(tmp_path, nodes, outputs=[value("y", ["batch", 3])], weights=weights)).model)
    context = make_context({"x": X}, scheme=Scheme(ops=("MatMul",), dynamic=True, blocks="MatMulNBits"))
    with pytest.raises(StepError, match=r"quantized already, it has DequantizeLinear, QuantizeLinear"):
        get(step)()(model, context)


def test_text_is_refused_for_targets_that_have_none(tmp_path):
    nodes = [helper.make_node("Equal", ["word", "red"], ["e"]), helper.make_node("Cast", ["e"], ["y"], to=FLOAT)]
    path = write(tmp_path, nodes, [value("word", ["batch"], STRING)], [value("y", ["batch"])], opset=19,
                 weights=[("red", np.array("red", object))])  # fmt: skip
    np.savez(tmp_path / "data.npz", word=np.array(["red", "blue"] * 20))
    asked = to_recipe(str(path), data=tmp_path / "data.npz", targets=["openvino"])
    with pytest.raises(InputError, match=r"has the text 'word', which of the targets onnxruntime, reference alone"):
        prepare(asked, Progress(1, silent=True), None)


def test_a_file_may_have_ops_of_another_domain_alone(tmp_path):
    node = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[1.0], scale=[2.0])
    path = write(tmp_path, [node], domains=["ai.onnx.ml"])
    proto = onnx.load(path)
    del proto.opset_import[0]
    onnx.save(proto, path)
    np.testing.assert_allclose(load(path).open().run({"x": X})["y"], (X - 1) * 2, rtol=1e-6)
