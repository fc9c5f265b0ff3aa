import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from optimize.models import Removal, TorchModel, measures
from optimize.steps.prune_blocks import Step, _removable
from optimize.steps.prune_weights import Step as Weights
from runtime.errors import InputError, NothingToDo, StepError


def model(module, context):
    return TorchModel(module, context.inputs)


def test_blocks_that_can_go_keep_their_shape(residual, option_a, pictures):
    assert _removable(residual(), [pictures]) == ["stages.0", "stages.2", "stages.3"]
    assert _removable(option_a(), [pictures]) == ["layer1.0", "layer1.1", "layer2.1"]


def test_stages_and_single_layers_are_no_blocks(pictures):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3, 1, 1), nn.ReLU()), nn.Conv2d(3, 3, 1))

        def forward(self, x):
            return x + self.inner(x)

    nested = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(Block(), Block()), nn.Sequential(nn.ReLU(), nn.ReLU()))
    assert _removable(nested.eval(), [pictures]) == ["1.0", "1.1"]


def test_blocks_called_twice_or_with_more_than_a_tensor_stay(pictures):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()) for _ in range(2)])
            self.twos = nn.ModuleList([Two()])

        def forward(self, x):
            return self.twos[0](self.blocks[1](self.blocks[0](self.blocks[0](x))), x)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x, y):
            return self.conv(x) + y

    assert _removable(Shared().eval(), [pictures]) == ["blocks.1"]


def test_the_block_that_does_least_goes(residual, torch_context):
    module = residual()
    with torch.no_grad():
        module.stages[2].bn2.weight.zero_()
        module.stages[2].bn2.bias.zero_()  # nothing is added to a shortcut that is positive already
    context = torch_context()
    found = Step(count=1)(model(module, torch_context), context)
    assert found.history == (Removal("stages.2"),) and isinstance(found.module.stages[2], nn.Identity)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(found.module(x), module(x))
    assert "prune_blocks: 1 of 3 blocks removed (stages.2), the outputs differ by 0 (relative)" in context.notes[0]
    assert f"MACs {measures(model(module, torch_context))['macs']:,} to" in context.notes[0]


def test_the_others_are_judged_anew(residual, torch_context):
    one = Step(count=1)(model(residual(), torch_context), torch_context())
    then = Step(count=1)(one, torch_context())
    both = Step(count=2)(model(residual(), torch_context), torch_context())
    assert both.history[0] == one.history[0] and len(set(both.history)) == 2
    assert len(then.history) == 2 and then.history[0] == one.history[0]


@pytest.mark.parametrize(("ratio", "count"), [(0.1, 1), (0.34, 1), (0.67, 2)])
def test_a_share_of_those_that_can_go(residual, torch_context, ratio, count):
    assert len(Step(ratio=ratio)(model(residual(), torch_context), torch_context()).history) == count


def test_include_and_exclude(residual, torch_context):
    found = Step(count=1, include=("stages.*",), exclude=("stages.0", "stages.3"))(
        model(residual(), torch_context), torch_context()
    )
    assert found.history == (Removal("stages.2"),)
    with pytest.raises(InputError, match=r"unknown name 'stages\.9'"):
        Step(count=1, exclude=("stages.9",))(model(residual(), torch_context), torch_context())
    with pytest.raises(StepError, match=r"2 blocks are to go, but only 1 can: stages\.3"):
        Step(count=2, include=("stages.3",))(model(residual(), torch_context), torch_context())


def test_named_blocks_go_whatever_they_do(residual, torch_context):
    found = Step(blocks=("stages.3", "stages.0"))(model(residual(), torch_context), torch_context())
    assert found.history == (Removal("stages.3"), Removal("stages.0"))
    twice = Step(blocks=("stages.3", "stages.0", "stages.3"))(model(residual(), torch_context), torch_context())
    assert twice.history == found.history
    assert Step(blocks=())(model(residual(), torch_context), torch_context()).history == ()
    with pytest.raises(InputError, match=r"blocks: unknown block that can go 'stages\.1'"):
        Step(blocks=("stages.1",))(model(residual(), torch_context), torch_context())
    with pytest.raises(StepError, match=r'which blocks go until "2x faster on openvino" was not found'):
        Step(until="2x faster on openvino")(model(residual(), torch_context), torch_context())


def test_the_model_given_is_not_changed(residual, torch_context):
    given = model(residual(), torch_context)
    before = copy.deepcopy(given.module.state_dict())
    Step(count=2)(given, torch_context())
    after = given.module.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_masks_of_what_is_gone_go(residual, torch_context):
    masked = Weights(sparsity=0.5)(model(residual(), torch_context), torch_context())
    found = Step(count=1)(masked, torch_context())
    gone = found.history[0].name
    assert any(name.startswith(gone) for name in masked.masks) and not any(
        name.startswith(gone) for name in found.masks
    )
    assert found.masks


def test_where_there_are_none_it_says_what_a_block_is(torch_context):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 196, 5)).eval()
    with pytest.raises(NothingToDo, match=r"no block that can go: a child of an nn\.Sequential"):
        Step(count=1)(model(module, torch_context), torch_context())


@pytest.mark.parametrize(
    "settings",
    [{}, {"ratio": 0.3, "count": 1}, {"ratio": 1}, {"count": 0}, {"count": 1, "samples": 0}, {"until": "faster"},
     {"until": "2x faster on openvino", "count": 1}, {"blocks": ["a"], "ratio": 0.3}],
)  # fmt: skip
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValidationError):
        Step(**settings)
