"""What several test files need: a small trained-like network in torch and in ONNX, made once a session."""

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def tiny_module():
    """Two convolutions, a shortcut and a classifier: input (N, 3, 8, 8), output (N, 5)."""
    torch = pytest.importorskip("torch", reason="pip install 'edge-optimize[all]'")
    from torch import nn

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
            self.bn = nn.BatchNorm2d(8)
            self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
            self.classifier = nn.Linear(8, 5)

        def forward(self, image):
            x = torch.relu(self.bn(self.conv1(image)))
            x = torch.relu(self.conv2(x) + x)
            return self.classifier(x.mean((2, 3)))

    torch.manual_seed(0)
    return Tiny().eval()


@pytest.fixture(scope="session")
def tiny_data():
    """(inputs (64, 3, 8, 8) float32, labels (64,) int64), seeded."""
    random = np.random.default_rng(0)
    return random.standard_normal((64, 3, 8, 8)).astype(np.float32), random.integers(0, 5, 64)


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory, tiny_module, tiny_data) -> Path:
    """`tiny_module` exported and simplified by the program's own steps; input `image`, output `output`."""
    from optimize.data import from_arrays
    from optimize.models import TorchModel
    from optimize.steps import Context
    from optimize.steps.export import Step as Export
    from optimize.steps.simplify import Step as Simplify
    from runtime.tensors import TensorSpec
    from targets import Scheme

    x, y = tiny_data
    splits = from_arrays({name: {"image": x, "y": y} for name in ("calibrate", "validate", "test")}, "tiny")
    model = TorchModel(tiny_module, (TensorSpec("image", "float32", ("batch", 3, 8, 8)),))
    axes = {"batch": {"min": 1, "best": 1, "max": 4}}
    for name, step in (("export", Export()), ("simplify", Simplify())):
        folder = tmp_path_factory.mktemp(name)
        model = step(model, Context(splits.calibrate, axes, Scheme(ops=("Conv",)), folder))
    return model.path
