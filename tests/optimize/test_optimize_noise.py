"""Where the accuracy went: planted damage is found where it was planted, and a quantized model is ranked."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import targets
from optimize import sensitivity
from optimize.models import read_onnx
from optimize.noise import LARGEST_DB, by_layer
from optimize.steps import get
from runtime import host
from runtime.errors import StepError


def damaged(path, out, index, size):
    """The same file with noise on the weights of one convolution or product."""
    model = onnx.load(path)
    weights = [t for t in model.graph.initializer if len(t.dims) > 1]
    tensor = weights[index]
    value = numpy_helper.to_array(tensor)
    random = np.random.default_rng(0)
    noisy = value + size * value.std() * random.standard_normal(value.shape).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(noisy, tensor.name))
    onnx.save(model, out)
    return read_onnx(out), tensor.name


@pytest.mark.parametrize("index", [0, 1, 2])
def test_planted_damage_is_found_where_it_was_planted(tiny_onnx, image_context, tmp_path, index):
    after, weight = damaged(tiny_onnx, tmp_path / "after.onnx", index, 0.1)
    found = by_layer(read_onnx(tiny_onnx), after, image_context().calibrate, 64, tmp_path)
    graph = onnx.load(tiny_onnx).graph
    (guilty,) = [node for node in graph.node if weight in node.input]
    assert found[0].name == (guilty.name or guilty.output[0])
    assert found[0].op == guilty.op_type
    assert 10 < found[0].sqnr_db < 35  # noise of a tenth is 20 dB
    assert found[0].before_db == LARGEST_DB
    assert all(abs(one.added) < found[0].added for one in found[1:])
    before = [node.name or node.output[0] for node in graph.node][: list(graph.node).index(guilty)]
    assert all(one.sqnr_db == LARGEST_DB for one in found if one.name in before)


def test_equal_graphs_lose_nothing(tiny_onnx, image_context, tmp_path):
    model = read_onnx(tiny_onnx)
    found = by_layer(model, model, image_context().calibrate, 64, tmp_path)
    assert len(found) == len(onnx.load(tiny_onnx).graph.node)
    assert {(one.before_db, one.sqnr_db, one.added) for one in found} == {(LARGEST_DB, LARGEST_DB, 0.0)}


def test_the_ratio_is_that_of_the_whole_outputs(tiny_onnx, image_context, tiny_data, tmp_path):
    from optimize.verify import judge

    after, _ = damaged(tiny_onnx, tmp_path / "after.onnx", 1, 0.3)
    before = read_onnx(tiny_onnx)
    found = by_layer(before, after, image_context(samples=20).calibrate, 20, tmp_path)
    wanted, got = (judge(one).run({"image": tiny_data[0][:20]})["output"].astype(float) for one in (before, after))
    last = onnx.load(tiny_onnx).graph.node[-1]
    (seen,) = [one for one in found if one.name == (last.name or last.output[0])]
    assert seen.sqnr_db == pytest.approx(10 * np.log10((wanted**2).sum() / ((wanted - got) ** 2).sum()), abs=0.01)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tensorrt"])
def test_a_quantized_model_is_ranked(tiny_onnx, image_context, target, tmp_path):
    context = image_context(scheme=targets.get(target).scheme("host", host.facts()))
    before = read_onnx(tiny_onnx)
    after = get("quantize_static")()(before, context)
    found = by_layer(before, after, context.calibrate, 64, tmp_path)
    assert [one.added for one in found] == sorted((one.added for one in found), reverse=True)
    assert all(5 < one.sqnr_db <= LARGEST_DB for one in found)
    assert min(one.sqnr_db for one in found) < 60
    assert sum(one.before_db == LARGEST_DB for one in found) == 1  # the first that is rounded: the others build on it
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # what was temporary is gone


def test_a_half_precision_model_is_ranked(tiny_onnx, image_context, tmp_path):
    context = image_context(scheme=targets.get("tensorrt").scheme("host", host.facts()))
    before = read_onnx(tiny_onnx)
    after = get("cast_fp16")()(before, context)
    found = by_layer(before, after, context.calibrate, 64, tmp_path)
    assert found
    assert all(40 < one.sqnr_db <= LARGEST_DB for one in found)


def test_graphs_that_do_not_run_together_are_said(tiny_onnx, image_context, tmp_path):
    model = onnx.load(tiny_onnx)
    model.opset_import[0].version = 17
    onnx.save(model, tmp_path / "older.onnx")
    with pytest.raises(StepError, match="opset"):
        by_layer(read_onnx(tiny_onnx), read_onnx(tmp_path / "older.onnx"), image_context().calibrate, 8, tmp_path)


@pytest.mark.parametrize("ir_version", [3, 8])
def test_an_older_graph_is_compared_with_what_was_raised_before_it_was_rounded(ir_version, make_context, tmp_path):
    """Of the oldest, weights are inputs of the graph too."""
    random = np.random.default_rng(0)
    ends = [helper.make_tensor_value_info(name, 1, ["batch", 2, 4, 4]) for name in "xy"]
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (2, 2, 1, 1)), ("b", (2,)))
    ]
    also = [helper.make_tensor_value_info(one.name, 1, list(one.dims)) for one in weights] if ir_version < 4 else []
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"), helper.make_node("Relu", ["c"], ["y"], "relu")]
    graph = helper.make_graph(nodes, "old", [ends[0], *also], ends[1:], weights)
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=ir_version)
    onnx.save(file, tmp_path / "old.onnx")
    context = make_context({"x": random.standard_normal((16, 2, 4, 4)).astype(np.float32)})
    model = read_onnx(tmp_path / "old.onnx")
    after = get("quantize_static")()(model, context)
    found = by_layer(model, after, context.calibrate, 16, tmp_path)
    assert [layer.name for layer in found] == ["conv", "relu"] and found[0].before_db == LARGEST_DB
    assert all(25 < layer.sqnr_db < 60 for layer in found)


def test_of_layers_alone_in_int8_the_noisiest_come_first_and_where_the_time_is_up_it_is_said(
    tiny_onnx, image_context, tmp_path
):
    context = image_context(scheme=targets.get("onnxruntime").scheme("host", host.facts()))
    before = read_onnx(tiny_onnx)
    after = get("quantize_static")()(before, context)
    asked = (before, after, context.calibrate, context.calibrate, None, tmp_path)
    every, least = sensitivity.by_layer(*asked), by_layer(before, after, context.calibrate, 64, tmp_path)[::-1]
    notes = []
    found = sensitivity.by_layer(*asked, lambda *_: None, least, 0.0, notes)
    (quietest, *_) = [one.name for one in least if one.name in {layer.name for layer in every}]
    assert len(every) > 1 and found == [one for one in every if one.name == quietest]
    assert notes == [f"1 of {len(every)} layers were looked at alone in int8: 0 s were up"]
