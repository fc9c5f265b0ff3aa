"""What the step tests share: a context around arrays in memory."""

import numpy as np
import pytest


@pytest.fixture
def make_context(tmp_path_factory):
    """A context of `feeds` (arrays by input name), with a fresh folder for the step's files."""
    from optimize.data import NAMES, from_arrays
    from optimize.steps import Context
    from targets import Scheme

    def make(feeds, axes=None, scheme=None):
        splits = from_arrays(dict.fromkeys(NAMES, feeds), "here")
        axes = {"batch": {"min": 1, "best": 1, "max": 4}} if axes is None else axes
        folder = tmp_path_factory.mktemp("step")
        return Context(splits.calibrate, axes, scheme or Scheme(ops=("Conv",)), folder)

    return make


@pytest.fixture
def image_context(make_context, tiny_data):
    """The same for `tiny_module` and `tiny_onnx`."""

    def make(axes=None, scheme=None, samples=64):
        return make_context({"image": np.array(tiny_data[0][:samples])}, axes, scheme)

    return make


@pytest.fixture(scope="session")
def residual():
    """A residual network with convolutional shortcuts: (N, 3, 16, 16) to (N, 5); another seed, other weights."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
            self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
            self.shortcut = nn.Identity()
            if stride != 1 or before != after:
                self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

        def forward(self, x):
            y = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
            self.stages = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
            self.classifier = nn.Linear(32, 5)

        def forward(self, image):
            return self.classifier(self.stages(self.stem(image)).mean((2, 3)))

    def build(seed=0):
        torch.manual_seed(seed)
        return _settled(Residual())

    return build


@pytest.fixture(scope="session")
def option_a():
    """Builds a CIFAR network as He et al. have it: shortcuts subsample and pad the channels with zeros."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, before, after, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
            self.conv2, self.bn2 = nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after)
            self.stride, self.grow = stride, after - before

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if self.grow:
                x = functional.pad(
                    x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.grow // 2, self.grow // 2)
                )
            return torch.relu(y + x)

    class OptionA(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
            self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
            self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
            self.linear = nn.Linear(32, 5)

        def forward(self, image):
            x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(image)))))
            return self.linear(x.mean((2, 3)))

    def build(seed=0):
        torch.manual_seed(seed)
        return _settled(OptionA())

    return build


def _settled(module):
    """In eval mode, with batch norms that are not the identity."""
    import torch
    from torch import nn

    torch.set_num_threads(1)  # networks this small only wait for a second one

    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
    assert torch.is_grad_enabled()
    return module.eval()


@pytest.fixture(scope="session")
def pictures():
    """Four pictures of noise, (4, 3, 16, 16)."""
    import torch

    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def torch_context(make_context):
    """A context for the networks above; labelled by where a picture is bright, which can be learnt. Also `inputs`."""
    from dataclasses import replace

    from runtime.tensors import TensorSpec

    def make(samples=160, labels=True, **changes):
        feeds = {"image": bright(samples)[0]}
        if labels:
            feeds["y"] = bright(samples)[1]
        context = make_context(feeds, {"batch": {"min": 1, "best": 1, "max": 8}})
        return replace(context, **{"validate": context.calibrate, **changes})

    make.inputs = (TensorSpec("image", "float32", ("batch", 3, 16, 16)),)
    return make


def bright(samples):
    """Noise with one of five bright spots: pictures (samples, 3, 16, 16) and which spot, (samples,)."""
    random = np.random.default_rng(0)
    x = random.standard_normal((samples, 3, 16, 16)).astype(np.float32)
    y = random.integers(0, 5, samples)
    for i, label in enumerate(y):
        x[i, label % 3, :, 3 * label : 3 * label + 4] += 2
    return x, y


@pytest.fixture(scope="session")
def uneven(tmp_path_factory):
    """A small MobileNet, input `image` (batch, 3, 8, 8), output `logits` (batch, 5), whose channels differ 100-fold."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from optimize.models import read_onnx

    random = np.random.default_rng(0)
    spread = 10.0 ** random.uniform(-3, 1, 8)

    def normal(*shape):
        return random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))

    weights = {
        "w1": normal(8, 3, 3, 3) * spread.reshape(-1, 1, 1, 1), "b1": np.abs(normal(8, 4)[:, 0]) * spread,
        "w2": normal(8, 1, 3, 3) * 3 / spread.reshape(-1, 1, 1, 1), "b2": np.abs(normal(8, 4)[:, 0]),
        "w3": normal(16, 8, 1, 1), "b3": normal(16, 4)[:, 0],
        "w4": normal(5, 16), "b4": np.zeros(5), "low": np.array(0.0), "high": np.array(6.0),
    }  # fmt: skip
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["a"], "first", **pads),
        helper.make_node("Clip", ["a", "low", "high"], ["c"], "clip1"),
        helper.make_node("Conv", ["c", "w2", "b2"], ["d"], "depthwise", group=8, **pads),
        helper.make_node("Clip", ["d", "low", "high"], ["e"], "clip2"),
        helper.make_node("Conv", ["e", "w3", "b3"], ["f"], "pointwise"),
        helper.make_node("Relu", ["f"], ["g"], "relu"),
        helper.make_node("GlobalAveragePool", ["g"], ["h"], "pool"),
        helper.make_node("Flatten", ["h"], ["i"], "flatten"),
        helper.make_node("Gemm", ["i", "w4", "b4"], ["logits"], "classifier", transB=1),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("image", (3, 8, 8)), ("logits", (5,)))
    ]
    tensors = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "uneven", ends[:1], ends[1:], tensors)
    path = tmp_path_factory.mktemp("uneven") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return read_onnx(path)


@pytest.fixture(scope="session")
def learned(residual, tmp_path_factory):
    """The state of the same network, trained on the bright spots."""
    from conftest import bright

    from optimize.data import NAMES, from_arrays
    from optimize.models import TorchModel
    from optimize.steps import Context
    from optimize.steps.recover import Step
    from runtime.tensors import TensorSpec
    from targets import Scheme

    x, y = bright(160)
    splits = from_arrays({name: {"image": x, "y": y} for name in NAMES}, "here")
    context = Context(splits.calibrate, {}, Scheme(ops=()), tmp_path_factory.mktemp("learned"))
    model = TorchModel(residual(), (TensorSpec("image", "float32", ("batch", 3, 16, 16)),))
    return Step(epochs=8, batch=32, lr=1e-2)(model, context)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_onnx, tiny_data):
    """A run's report and its bundle: `tiny_onnx` for OpenVINO on an older processor and ONNX Runtime on this one."""
    from optimize.pipeline import run

    folder = tmp_path_factory.mktemp("finished")
    np.savez(folder / "data.npz", x=tiny_data[0], y=tiny_data[1])
    report = run(
        tiny_onnx, out=folder / "out", silent=True,
        changes=["search.quick=true", 'targets.openvino.cpu="avx2"'],
        data=folder / "data.npz", targets=["openvino", "onnxruntime"], max_drop="90pp",
    )  # fmt: skip
    return report, folder / "out" / "bundle"
