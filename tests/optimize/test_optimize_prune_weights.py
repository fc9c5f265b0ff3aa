import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from optimize import pruning
from optimize.models import TorchModel
from optimize.steps.prune_weights import Step
from optimize.steps.recover import Step as Recover
from runtime.errors import InputError, StepError


def model(module, context):
    return TorchModel(module, context.inputs)


def zeros(module):
    return {name: int((layer.weight == 0).sum()) for name, layer in pruning.layers(module).items()}


def total(module):
    return sum(layer.weight.numel() for layer in pruning.layers(module).values())


def test_the_smallest_of_all_are_zero(residual, torch_context):
    given = residual()
    found = Step(sparsity=0.7)(model(given, torch_context), torch_context())
    assert sum(zeros(found.module).values()) == round(0.7 * total(given))
    gone = torch.cat(
        [layer.weight[~found.masks[f"{name}.weight"]].abs() for name, layer in pruning.layers(given).items()]
    )
    kept = torch.cat(
        [layer.weight[found.masks[f"{name}.weight"]].abs() for name, layer in pruning.layers(given).items()]
    )
    assert gone.max() <= kept.min()


def test_each_layer_loses_the_same_share(residual, torch_context):
    found = Step(sparsity=0.5, scope="layer")(model(residual(), torch_context), torch_context())
    for name, layer in pruning.layers(found.module).items():
        assert zeros(found.module)[name] == round(0.5 * layer.weight.numel())


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("1:4", 1, 4), ("4:8", 4, 8)])
def test_n_of_every_m_inputs_are_kept(residual, torch_context, pattern, n, m):
    context = torch_context()
    given = residual()
    found = Step(pattern=pattern)(model(given, torch_context), context)
    for name, layer in pruning.layers(found.module).items():
        if name == "stem.0":
            continue
        rows = layer.weight.movedim(1, -1).reshape(-1, m)
        assert ((rows != 0).sum(1) == n).all(), name
        before = given.get_submodule(name).weight.movedim(1, -1).reshape(-1, m)
        kept, gone = before.abs().masked_fill(rows == 0, torch.inf), before.abs().masked_fill(rows != 0, 0)
        assert (gone.max(1).values <= kept.min(1).values).all()
    assert zeros(found.module)["stem.0"] == 0  # it has three inputs
    assert f"prune_weights left stem.0 alone: inputs no multiple of {m}" in context.notes


def test_the_report_says_that_dense_engines_are_no_faster(residual, torch_context):
    context = torch_context()
    Step(sparsity=0.5)(model(residual(), torch_context), context)
    assert "are zero (50%, unstructured). A dense engine is no faster and no smaller for zeros" in context.notes[0]


def test_zeros_stay_zeros_in_recovery(residual, torch_context):
    given = model(residual(), torch_context)
    masked = Step(pattern="2:4")(given, torch_context())
    found = Recover(epochs=2, batch=32, lr=1e-2, ema=0.9, distill=0.3)(masked, torch_context(original=given))
    assert found.masks.keys() == masked.masks.keys()
    for name, mask in masked.masks.items():
        weight = found.module.get_parameter(name)
        assert (weight[~mask] == 0).all()
    assert not torch.equal(found.module.classifier.weight, masked.module.classifier.weight)


def test_more_may_go_later(residual, torch_context):
    once = Step(sparsity=0.5)(model(residual(), torch_context), torch_context())
    twice = Step(sparsity=0.8)(once, torch_context())
    assert sum(zeros(twice.module).values()) == round(0.8 * total(twice.module))
    assert all((twice.masks[name] <= mask).all() for name, mask in once.masks.items())


def test_include_and_exclude(residual, torch_context):
    found = Step(sparsity=0.5, include=("stages.*",), exclude=("*.conv2",))(
        model(residual(), torch_context), torch_context()
    )
    lost = {name for name, count in zeros(found.module).items() if count}
    assert lost == {name.removesuffix(".weight") for name in found.masks}
    assert lost == {name for name in zeros(found.module) if name.startswith("stages") and not name.endswith("conv2")}
    with pytest.raises(InputError, match="unknown name 'stage'"):
        Step(sparsity=0.5, exclude=("stage",))(model(residual(), torch_context), torch_context())


def test_the_model_given_is_not_changed(residual, torch_context):
    given = model(residual(), torch_context)
    before = copy.deepcopy(given.module.state_dict())
    Step(pattern="2:4")(given, torch_context())
    assert all(torch.equal(before[name], value) for name, value in given.module.state_dict().items())
    assert not given.masks


def test_where_no_layer_can_have_the_pattern(torch_context):
    module = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Flatten()).eval()
    with pytest.raises(StepError, match="no layer can have the pattern 2:4: 0"):
        Step(pattern="2:4")(model(module, torch_context), torch_context())


def test_transposed_convolutions_have_their_inputs_first(torch_context):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 3)).eval()
    found = Step(pattern="2:4", include=("1",))(model(module, torch_context), torch_context())
    assert ((found.module[1].weight.movedim(0, -1).reshape(-1, 4) != 0).sum(1) == 2).all()


@pytest.mark.parametrize(
    "settings",
    [{}, {"sparsity": 0}, {"sparsity": 1}, {"pattern": "2:4", "sparsity": 0.5}, {"pattern": "4:2"}, {"pattern": "4:4"},
     {"pattern": "dense"}, {"pattern": "0:4"}],
)  # fmt: skip
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValidationError):
        Step(**settings)
