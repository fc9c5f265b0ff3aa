"""What layers take at several widths: narrower copies that run, what lies between, and real times."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from optimize import pruning
from optimize.latencies import Latency, measured, narrowed, widths
from optimize.models import TorchModel, write_onnx
from optimize.steps.export import exported
from runtime.contender import Contender
from runtime.tensors import TensorSpec

MS = st.floats(0.0, 1e3)


@given(st.lists(MS, min_size=9, max_size=9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_more_channels_never_take_less_whatever_was_measured(ms, takes, gives, more):
    layer = Latency((8, 16, 32), (4, 8, 32), tuple(tuple(ms[i : i + 3]) for i in (0, 3, 6)))
    assert layer.at(takes, gives) <= layer.at(takes + more, gives) + 1e-9
    assert layer.at(takes, gives) <= layer.at(takes, gives + more) + 1e-9


def test_between_the_widths_that_were_measured_lies_a_straight_line():
    layer = Latency((8, 16), (4, 8), ((1.0, 2.0), (3.0, 4.0)))
    assert [layer.at(8, 4), layer.at(16, 8), layer.at(12, 4), layer.at(12, 6)] == [1.0, 4.0, 2.0, 2.5]
    assert Latency((32,), (8, 16), ((1.0, 2.0),)).at(5, 12) == 1.5  # depthwise: what it gives alone counts


@pytest.mark.parametrize(
    ("layer", "shape", "takes", "gives", "small"),
    [
        (nn.Conv2d(16, 32, 3, 2, 1), (2, 16, 8, 8), 8, 24, (2, 8, 8, 8)),
        (nn.Conv2d(16, 32, 3, groups=4), (1, 16, 8, 8), 8, 16, (1, 8, 8, 8)),
        (nn.Conv2d(16, 16, 3, groups=16), (1, 16, 8, 8), 16, 8, (1, 8, 8, 8)),
        (nn.Conv1d(16, 8, 3, padding="same"), (1, 16, 9), 4, 8, (1, 4, 9)),
        (nn.ConvTranspose2d(16, 32, 2, 2), (1, 16, 4, 4), 8, 16, (1, 8, 4, 4)),
        (nn.Linear(16, 32, bias=False), (2, 7, 16), 8, 24, (2, 7, 8)),
    ],
)
def test_a_narrower_layer_runs_on_narrower_input(layer, shape, takes, gives, small):
    found, got = narrowed(layer, shape, takes, gives)
    assert got == small
    axis = len(shape) - 1 - len(getattr(layer, "kernel_size", ()))
    answer = found(torch.zeros(got))
    assert answer.shape[axis] == widths(found)[1] == gives
    assert [size for i, size in enumerate(answer.shape) if i != axis] == [
        size for i, size in enumerate(layer(torch.zeros(shape)).shape) if i != axis
    ]


def test_what_can_change_is_measured_on_the_engine(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), nn.Flatten(2), nn.Conv1d(16, 8, 1),
        nn.Flatten(), nn.Linear(8 * 16, 5),
    ).eval()  # fmt: skip
    model = TorchModel(module, (TensorSpec("x", "float32", ("batch", 3, 8, 8)),))
    feeds = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    plain = write_onnx(exported(module, model.inputs, feeds, ["y"], tmp_path, 18, "torchscript"), tmp_path / "m.onnx")
    arguments = {
        "engine": "onnxruntime", "files": {"model": str(plain.path)}, "specs": plain.specs.to_json(), "options": {},
    }  # fmt: skip
    contender = Contender("plain", "runtime.worker:open_engine", arguments, takes=plain.specs.inputs)
    argument = [torch.zeros(1, 3, 8, 8)]
    least, broken = pruning.remove_channels(module, [pruning.Removal("0", tuple(range(12)))], argument)
    assert broken == {}
    whole, found = measured(model, least, contender, feeds, 4, tmp_path / "log", lambda *told: None)
    assert whole > 0
    assert {name: (one.takes, one.gives) for name, one in found.items()} == {
        "0": ((3,), (4, 8, 16)),
        "2": ((16,), (4, 8, 16)),
        "4": ((4, 8, 16), (8,)),
    }
    assert all(np.shape(one.ms) == (len(one.takes), len(one.gives)) and np.min(one.ms) > 0 for one in found.values())
    assert not any(layer._forward_pre_hooks for layer in module.modules())
