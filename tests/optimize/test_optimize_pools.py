import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional

from optimize.models import TorchModel
from optimize.steps._pools import windows
from optimize.steps.export import Step, exported
from runtime.tensors import TensorSpec


class Pools(nn.Module):
    def __init__(self, *size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return functional.adaptive_avg_pool2d(x, self.size)


class AsInput(nn.Module):
    """Pooled to the size of another, which is known when it runs."""

    def forward(self, x, y):
        return functional.adaptive_avg_pool2d(x, y.shape[-2:]) + y


class Rows(nn.Module):
    def forward(self, x):
        return functional.adaptive_avg_pool1d(x, 8)


def numbers(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.fixture
def made(make_context):
    """What the step makes of a module of one input x: the ops, and a session."""

    def make(module, *shape, **settings):
        model = TorchModel(module.eval(), (TensorSpec("x", "float32", ("batch", *shape)),))
        file = Step(**settings)(model, make_context({"x": numbers(4, *shape)})).path
        ops = [node.op_type for node in onnx.load(file).graph.node]
        return ops, ort.InferenceSession(file, providers=["CPUExecutionProvider"])

    return make


def opened(module, inputs, feeds, folder):
    proto = exported(module, inputs, feeds, ["output"], folder, 18)
    return ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def same(session, module, *arrays):
    """The session answers as the module does, as far as float32 goes."""
    names = [one.name for one in session.get_inputs()]
    (got,) = session.run(None, dict(zip(names, arrays, strict=True)))
    wanted = module(*map(torch.from_numpy, arrays)).numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "to", "ops"),
    [
        ((12, 18), (4, 9), ["AveragePool"]),
        ((12, 18), (8, 12), ["Conv", "DepthToSpace"]),
        ((24, 48), (5, 10), ["MatMul", "MatMul"]),
        ((7, 3), (1, 5), ["MatMul", "MatMul"]),  # more outputs than inputs
        ((12, 18), (4, 12), ["MatMul", "MatMul"]),  # a period of 1 and one of 3
    ],
)
def test_windows_become_the_cheapest_op(made, size, to, ops):
    module = Pools(*to)
    found, session = made(module, 6, *size)
    assert found == ops
    for batch in (1, 5):
        same(session, module, numbers(batch, 6, *size))


def test_as_torch_has_it_where_that_is_asked_for(made):
    found, _ = made(Pools(5, 10), 6, 24, 48, stock=True)
    assert "MatMul" not in found
    assert len(found) > 10


def test_open_sizes(tmp_path):  # torch's own answers otherwise at a size that it was not traced with, or fails
    inputs = [TensorSpec("x", "float32", ("batch", 3, "height", "width"))]
    session = opened(Pools(5, 7), inputs, {"x": numbers(2, 3, 11, 14)}, tmp_path)
    for size in ((11, 14), (32, 20), (10, 14), (3, 4)):
        same(session, Pools(5, 7), numbers(2, 3, *size))


def test_an_open_size_to_that_of_another_input(tmp_path):
    shapes = {"x": ("batch", 3, "height", "width"), "y": ("batch", 3, "rows", "columns")}
    inputs = [TensorSpec(name, "float32", shape) for name, shape in shapes.items()]
    session = opened(AsInput(), inputs, {"x": numbers(2, 3, 11, 14), "y": numbers(2, 3, 4, 9)}, tmp_path)
    for size, to in (((11, 14), (4, 9)), ((32, 32), (5, 7)), ((12, 18), (6, 9))):
        same(session, AsInput(), numbers(2, 3, *size), numbers(2, 3, *to))


def test_one_axis(made):
    found, session = made(Rows(), 6, 12)
    assert len(found) < 6
    same(session, Rows(), numbers(2, 6, 12))


def test_windows_are_those_of_torch():
    for size in range(1, 13):
        for outputs in range(1, 13):
            wanted = functional.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64), outputs).numpy()
            np.testing.assert_allclose(windows(size, outputs).T, wanted)
