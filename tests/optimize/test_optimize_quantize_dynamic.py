import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import targets
from optimize.models import read_onnx
from optimize.steps.quantize_dynamic import Step
from optimize.verify import judge, signal_to_noise
from runtime import host
from runtime.errors import StepError


@pytest.fixture
def product(tmp_path):
    """x (batch, 16) times a constant, added, times another."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "v"], ["y"], "second"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", s]) for n, s in (("x", 16), ("y", 4))]
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("w", (16, 32)), ("v", (32, 4)))
    ]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], weights)
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return read_onnx(path)


def feeds(samples=32):
    return {"x": np.random.default_rng(1).standard_normal((samples, 16)).astype(np.float32)}


def scheme(name):
    return targets.get(name).scheme("host", host.facts())


def kinds(model):
    return [node.op_type for node in onnx.load(model.path).graph.node]


def test_products_round_in_the_call(product, make_context):
    found = Step()(product, make_context(feeds(), scheme=scheme("onnxruntime")))
    assert found.specs == product.specs and kinds(found).count("MatMulInteger") == 2
    assert signal_to_noise(judge(found).run(feeds()), judge(product).run(feeds())) > 30
    assert sorted(path.name for path in found.path.parent.iterdir()) == ["model.onnx"]


def test_what_is_excluded_stays(product, make_context):
    found = Step(exclude=("second",))(product, make_context(feeds(), scheme=scheme("onnxruntime")))
    assert kinds(found).count("MatMulInteger") == kinds(found).count("MatMul") == 1


@pytest.mark.parametrize("target", [name for name in targets.names() if name != "onnxruntime"])
def test_a_target_without_such_kernels_is_said(product, make_context, target):
    with pytest.raises(StepError, match="no kernels that round in the call"):
        Step()(product, make_context(feeds(), scheme=scheme(target)))


def test_nothing_to_quantize_is_said(product, make_context):
    with pytest.raises(StepError, match="nothing to quantize: the model has MatMul, Relu"):
        Step(include=("Conv",))(product, make_context(feeds(), scheme=scheme("onnxruntime")))
