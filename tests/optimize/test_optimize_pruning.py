import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from optimize import pruning
from optimize.models import Removal, TorchModel, macs, measures
from optimize.steps.prune_blocks import Step as Blocks
from optimize.steps.prune_channels import Step as Channels
from optimize.steps.prune_weights import Step as Weights
from runtime.errors import InputError, StepError

AXES = {"batch": {"min": 1, "best": 1, "max": 8}}


def test_layers_are_chosen_by_name_or_by_class(residual):
    layers = pruning.layers(residual())
    assert set(layers) > {"stem.0", "stages.1.shortcut.0", "classifier"}
    assert list(pruning.chosen(layers, ("classifier",), ())) == ["classifier"]
    assert list(pruning.chosen(layers, ("Linear",), ())) == ["classifier"]
    assert "classifier" not in pruning.chosen(layers, ("*",), ("Linear",))
    assert set(pruning.chosen(layers, ("stages.1.*",), ("*.shortcut.*",))) == {"stages.1.conv1", "stages.1.conv2"}


@pytest.mark.parametrize("side", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused(residual, side):
    patterns = {"include": ("*",), "exclude": (), side: ("clasifier",)}
    with pytest.raises(InputError, match=r"matches nothing: unknown name 'clasifier'; did you mean 'classifier'\?"):
        pruning.chosen(pruning.layers(residual()), **patterns)


def test_removed_channels_are_those_at_zero(residual, pictures):
    module = residual()
    small, broken = pruning.remove_channels(module, [Removal("stages.0.conv1", (0, 3))], [pictures])
    assert broken == {}
    assert small.stages[0].conv1.out_channels == module.stages[0].conv1.out_channels - 2
    zeroed = residual()
    with torch.no_grad():
        zeroed.stages[0].conv2.weight[:, [0, 3]] = 0
        torch.testing.assert_close(small(pictures), zeroed(pictures))


def test_a_residual_stream_loses_its_channels_everywhere(residual, pictures):
    small, broken = pruning.remove_channels(residual(), [Removal("stem.0", tuple(range(8)))], [pictures])
    assert broken == {}
    assert (small.stem[0].out_channels, small.stages[0].conv2.out_channels, small.stages[1].conv1.in_channels) == (
        8,
        8,
        8,
    )


def test_an_activation_that_is_not_zero_at_zero_does_not_break_the_invariant(pictures):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3), nn.Flatten()).eval()
    small, broken = pruning.remove_channels(module, [Removal("0", (1, 2))], [pictures])
    assert broken == {} and small[2].in_channels == 6


def test_a_linear_layer_after_flatten_loses_the_channels_pixels(pictures):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)).eval()
    small, broken = pruning.remove_channels(module, [Removal("0", (1, 2))], [pictures])
    assert broken == {} and small[3].in_features == 6 * 14 * 14


def test_channels_that_a_norm_mixes_are_refused(pictures):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()).eval()
    _, broken = pruning.remove_channels(module, [Removal("0", (1, 5))], [pictures])
    assert "from channels at zero" in broken["0"]


def test_padding_is_coupled_wrongly_and_found_out(option_a, pictures):
    _, broken = pruning.remove_channels(option_a(), [Removal("conv1", tuple(range(0, 16, 2)))], [pictures])
    assert "from channels at zero" in broken["conv1"]


def test_the_output_layer_is_told_by_its_shape(residual, pictures):
    _, broken = pruning.remove_channels(residual(), [Removal("classifier", (1,))], [pictures])
    assert broken == {"classifier": "it gives the outputs, whose shape would change"}


def test_relative_change():
    wanted = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0])}
    assert pruning.relative_change({"a": torch.tensor([3.0, 4.5]), "b": torch.tensor([1.0])}, wanted) == pytest.approx(
        0.1
    )
    assert pruning.relative_change({"a": torch.tensor([3.0]), "b": torch.tensor([1.0])}, wanted) == float("inf")
    assert pruning.relative_change({"a": torch.tensor([3.0, float("nan")]), "b": torch.tensor([1.0])}, wanted) == float(
        "inf"
    )
    assert pruning.relative_change({"a": torch.zeros(2)}, {"a": torch.zeros(2)}) == 0


def test_a_frozen_layer_is_seen(residual, pictures):
    module = residual()
    module.requires_grad_(False)
    _, broken = pruning.remove_channels(module, [Removal("stages.0.conv1", (0,))], [pictures])
    assert broken == {}


def test_what_is_saved_comes_back_on_a_fresh_build(residual, pictures, torch_context, tmp_path):
    given = TorchModel(residual(), torch_context.inputs)
    found = given
    for step in (Channels(ratio=0.3), Blocks(count=1), Channels(macs=0.8), Weights(pattern="2:4", exclude=("stem.0",))):
        found = step(found, torch_context())
    pruning.save(found, tmp_path / "kept", AXES)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"weights.safetensors", "pruning.json"}
    back = pruning.load(tmp_path / "kept", residual(seed=7))
    assert back.history == found.history and back.inputs == found.inputs and measures(back) == measures(found)
    with torch.no_grad():
        torch.testing.assert_close(back.module(pictures), found.module(pictures), rtol=0, atol=0)
    assert set(back.masks) == set(found.masks)
    assert all(torch.equal(mask, found.masks[name]) for name, mask in back.masks.items())
    assert not back.module.training
    again = Channels(ratio=0.1)(TorchModel(back.module, back.inputs, history=back.history), torch_context())
    assert again.history[: len(back.history)] == back.history


def test_an_unpruned_model_comes_back_too(residual, pictures, torch_context, tmp_path):
    given = TorchModel(residual(), torch_context.inputs)
    pruning.save(given, tmp_path, AXES)
    back = pruning.load(tmp_path, residual(seed=7))
    with torch.no_grad():
        torch.testing.assert_close(back.module(pictures), given.module(pictures), rtol=0, atol=0)


def test_tied_weights_are_kept(torch_context, pictures, tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(256, 256, bias=False), nn.Linear(256, 256, bias=False)
            self.b.weight = self.a.weight

        def forward(self, image):
            return self.b(torch.relu(self.a(image[:, 0].flatten(1))))

    given = TorchModel(Tied().eval(), torch_context.inputs)
    pruning.save(given, tmp_path, AXES)
    with torch.no_grad():
        torch.testing.assert_close(pruning.load(tmp_path, Tied()).module(pictures), given.module(pictures))


@pytest.mark.parametrize("damage", ["no file", "not JSON", "another build", "half a file"])
def test_what_does_not_fit_is_refused(residual, option_a, torch_context, tmp_path, damage):
    pruning.save(Channels(ratio=0.3)(TorchModel(residual(), torch_context.inputs), torch_context()), tmp_path, AXES)
    if damage == "no file":
        (tmp_path / "weights.safetensors").unlink()
    elif damage == "not JSON":
        (tmp_path / "pruning.json").write_text("{")
    elif damage == "half a file":
        whole = (tmp_path / "weights.safetensors").read_bytes()
        (tmp_path / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StepError, match="does not fit this build of the model"):
        pruning.load(tmp_path, option_a() if damage == "another build" else residual())


def test_the_history_is_torch_prunings_own(residual, torch_context, tmp_path):
    found = Blocks(count=1)(
        Channels(ratio=0.3)(TorchModel(residual(), torch_context.inputs), torch_context()), torch_context()
    )
    pruning.save(found, tmp_path, AXES)
    written = json.loads((tmp_path / "pruning.json").read_text())
    name, outputs, channels = written["history"][0]
    assert outputs is True and isinstance(name, str) and channels == sorted(channels)
    assert written["history"][-1] == {"block": found.history[-1].name}


def test_multiplications_of_one_picture(torch_context):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 5)

        def forward(self, image):
            return self.linear(functional.relu(self.conv(image)).mean((2, 3)))

    model = TorchModel(Net().eval(), torch_context.inputs)
    expected = 16 * 16 * 4 * 3 * 9 + 4 * 5
    assert macs(model, AXES) == expected and measures(model)["macs"] == expected
    assert macs(model, {"batch": {"min": 2, "best": 2, "max": 2}}) == 2 * expected


def test_where_a_module_refuses_zeros_there_is_no_count(torch_context):
    class Picky(nn.Linear):
        def forward(self, image):
            raise ValueError("no zeros")

    assert "macs" not in measures(TorchModel(Picky(2, 2).eval(), torch_context.inputs))
