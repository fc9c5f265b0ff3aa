import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from optimize import models
from optimize.models import read_onnx, strip, write_onnx
from optimize.verify import judge
from runtime.errors import InputError
from runtime.tensors import TensorSpec

SECRET = "/home/somebody/secret.py"


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name="w", shape=(3, 2)):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return numpy_helper.from_array(data, name)


def model(nodes=None, weights=(), inputs=None, functions=()):
    """y = x @ w, unless told otherwise."""
    nodes = nodes or [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    graph = helper.make_graph(
        nodes, "graph", inputs or [value("x", ["batch", 3])], [value("y", ["batch", 2])], list(weights) or [weight()]
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=list(functions))


def save(folder, proto):
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def external(tensor, location):
    """The same tensor, said to lie in another file."""
    moved = TensorProto()
    moved.CopyFrom(tensor)
    moved.ClearField("raw_data")
    moved.data_location = TensorProto.EXTERNAL
    if location is not None:
        moved.external_data.add(key="location", value=location)
    return moved


def test_read_tells_inputs_and_outputs(tmp_path):
    proto = model(inputs=[value("x", ["batch", 3]), value("w", [3, 2])])
    found = read_onnx(save(tmp_path, proto))
    assert found.specs.inputs == (TensorSpec("x", "float32", ("batch", 3)),)  # w is a weight, as old files list it
    assert found.specs.outputs == (TensorSpec("y", "float32", ("batch", 2)),)


def test_every_open_axis_gets_a_name(tmp_path):
    proto = model(inputs=[value("x", ["n", None])])
    proto.graph.input[0].type.tensor_type.shape.dim.add(dim_value=0)
    assert read_onnx(save(tmp_path, proto)).specs.inputs[0].shape == ("n", "x_1", "x_2")


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.INT64, "int64"), (TensorProto.UINT8, "uint8"),
     (TensorProto.BOOL, "bool"), (TensorProto.DOUBLE, "float64")],
)  # fmt: skip
def test_dtypes_are_numpy_names(tmp_path, kind, dtype):
    assert read_onnx(save(tmp_path, model(inputs=[value("x", [1, 3], kind)]))).specs.inputs[0].dtype == dtype


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"import torch\n\nprint('hello')\n", b"PK\x03\x04 a zip"])
def test_what_is_no_onnx_is_refused(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx is not an ONNX model"):
        read_onnx(path)


@pytest.mark.parametrize("kept", [0.02, 0.2, 0.5, 0.9, 0.999])
def test_truncated_onnx_is_refused(tmp_path, tiny_onnx, kept):
    whole = tiny_onnx.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(InputError, match=r"model\.onnx is not an ONNX model"):
        read_onnx(path)


def test_onnx_that_is_not_there_is_refused(tmp_path):
    for path in (tmp_path / "model.onnx", tmp_path):
        with pytest.raises(InputError, match="no such file"):
            read_onnx(path)


def test_an_input_that_is_no_tensor_is_refused(tmp_path):
    sequence = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    with pytest.raises(InputError, match="'x' is a sequence; only tensors"):
        read_onnx(save(tmp_path, model(inputs=[sequence])))


def test_an_input_without_a_type_is_refused(tmp_path):
    for untyped in (onnx.ValueInfoProto(name="x"), value("x", [1, 3], TensorProto.UNDEFINED)):
        with pytest.raises(InputError, match="'x'"):
            read_onnx(save(tmp_path, model(inputs=[untyped])))


@pytest.fixture
def outside(tmp_path):
    """A folder for the model, with a readable file beside that folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(24))
    return folder


@pytest.mark.parametrize("location", ["../outside.bin", "/etc/hostname", "a/../../outside.bin", "..\\outside.bin", ""])
def test_external_data_outside_its_folder_is_refused(outside, location):
    with pytest.raises(InputError, match="outside its own folder; it is refused"):
        read_onnx(save(outside, model(weights=[external(weight(), location)])))


def test_external_data_without_a_place_is_refused(outside):
    with pytest.raises(InputError, match="it is refused"):
        read_onnx(save(outside, model(weights=[external(weight(), None)])))


@pytest.mark.parametrize("folder", [False, True])
def test_external_data_through_a_link_out_of_its_folder_is_refused(outside, folder):
    (outside / "link").symlink_to(outside.parent if folder else outside.parent / "outside.bin")
    location = "link/outside.bin" if folder else "link"
    with pytest.raises(InputError, match="a link out of its folder; it is refused"):
        read_onnx(save(outside, model(weights=[external(weight(), location)])))


def test_external_data_that_is_missing_is_named(outside):
    with pytest.raises(InputError, match=r"needs its external data 'weights\.bin' beside it, which is missing"):
        read_onnx(save(outside, model(weights=[external(weight(), "weights.bin")])))


def test_external_data_beside_it_is_accepted(outside):
    (outside / "weights.bin").write_bytes(weight().raw_data)
    found = read_onnx(save(outside, model(weights=[external(weight(), "weights.bin")])))
    x = np.ones((1, 3), np.float32)
    np.testing.assert_allclose(judge(found).run({"x": x})["y"], x @ numpy_helper.to_array(weight()))


def branch(tensor):
    """A model with a weight inside a graph inside a node."""
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["inner_y"])],
        "branch",
        [],
        [value("inner_y", ["batch", 2])],
        [tensor],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["condition"], to=TensorProto.BOOL),
        helper.make_node("If", ["condition"], ["y"], then_branch=inner, else_branch=inner),
    ]
    return model(nodes)


def constant(tensor):
    return model(
        [helper.make_node("Constant", [], ["w2"], value=tensor), helper.make_node("MatMul", ["x", "w2"], ["y"])]
    )


def function(tensor):
    nodes = [helper.make_node("Constant", [], ["c"], value=tensor), helper.make_node("MatMul", ["a", "c"], ["b"])]
    own = helper.make_function("own", "Product", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])
    return model([helper.make_node("Product", ["x"], ["y"], domain="own")], functions=[own])


@pytest.mark.parametrize("place", [branch, constant, function])
def test_external_data_outside_its_folder_is_refused_wherever_the_weight_is(outside, place):
    with pytest.raises(InputError, match="outside its own folder; it is refused"):
        read_onnx(save(outside, place(external(weight("inner"), "../outside.bin"))))


def mark(message):
    """Write a path of the user's into every documentation string and all metadata of a protobuf message."""
    if "doc_string" in message.DESCRIPTOR.fields_by_name:
        message.doc_string = SECRET
    if "metadata_props" in message.DESCRIPTOR.fields_by_name:
        message.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=SECRET)
    for field, content in message.ListFields():
        if field.name in ("metadata_props", "opset_import") or field.message_type is None:
            continue
        for inner in content if not hasattr(content, "DESCRIPTOR") else [content]:
            mark(inner)


@pytest.mark.parametrize(
    "make", [model, lambda: branch(weight("inner")), lambda: constant(weight()), lambda: function(weight())]
)
def test_nothing_of_the_machine_is_left_in_what_is_written(tmp_path, make):
    proto = make()
    mark(proto)
    assert SECRET.encode() in proto.SerializeToString()
    written = write_onnx(proto, tmp_path / "out" / "model.onnx")
    assert SECRET.encode() not in written.path.read_bytes()


@pytest.mark.parametrize("make", [lambda: branch(weight("inner")), lambda: function(weight())])
def test_documentation_and_metadata_of_nodes_inside_nodes_and_functions_are_stripped(make):
    proto = make()
    inner = proto.graph.node[2].attribute[0].g.node[0] if len(proto.graph.node) == 3 else proto.functions[0].node[0]
    for node in (proto.graph.node[0], inner):
        node.doc_string = SECRET
        node.metadata_props.add(key="stack_trace", value=SECRET)
    strip(proto)
    assert SECRET.encode() not in proto.SerializeToString()


def test_stripping_changes_nothing_else():
    proto, expected = branch(weight("inner")), branch(weight("inner"))
    mark(proto)
    strip(proto)
    strip(expected)
    assert [node.op_type for node in proto.graph.node] == [node.op_type for node in expected.graph.node]
    assert [list(node.input) for node in proto.graph.node] == [list(node.input) for node in expected.graph.node]
    assert read_names(proto) == read_names(expected)


def read_names(proto):
    return [(one.name, one.type.SerializeToString()) for one in (*proto.graph.input, *proto.graph.output)]


def test_equal_models_are_written_to_equal_bytes(tmp_path):
    first, second = model(), model()
    first.doc_string, second.graph.node[0].doc_string = "made at noon", "made at night"
    one, other = write_onnx(first, tmp_path / "a.onnx"), write_onnx(second, tmp_path / "b.onnx")
    assert one.path.read_bytes() == other.path.read_bytes()


def test_large_weights_are_written_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "EXTERNAL_DATA_BYTES", 1000)
    large = weight(shape=(300, 2))
    proto = model(weights=[large], inputs=[value("x", ["batch", 300])])
    written = write_onnx(proto, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx.data").stat().st_size >= 2400 > written.path.stat().st_size
    x = np.random.default_rng(0).random((2, 300), np.float32)
    found = judge(written).run({"x": x})["y"]
    np.testing.assert_allclose(found, x @ numpy_helper.to_array(weight(shape=(300, 2))), rtol=1e-5)


def test_small_weights_stay_inside(tmp_path):
    write_onnx(model(), tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_exported_fixture_holds_nothing_of_this_machine(tiny_onnx):
    content = tiny_onnx.read_bytes()
    assert b"/site-packages/" not in content and b"conftest.py" not in content and b"Traceback" not in content
