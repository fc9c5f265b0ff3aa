import copy

import numpy as np
import pytest
import torch
from torch import nn

from optimize import steps
from optimize.models import OnnxModel, TorchModel
from optimize.steps import quantize_aware
from optimize.steps.export import Step as Export
from optimize.steps.quantize_aware import Step, rounded_weight
from optimize.steps.quantize_static import Step as Static
from optimize.verify import judge
from runtime.errors import InputError, StepError
from runtime.tensors import TensorSpec
from targets import Scheme

SCHEME = Scheme(ops=("Conv", "Gemm", "MatMul", "Add"))


def coarse(monkeypatch, top=3):
    """Weights of so few steps that rounding ruins a model which did not train for it."""
    monkeypatch.setattr(quantize_aware, "WEIGHTS", top)


def on_the_grid(module):
    """The module with its weights rounded for good."""
    found = copy.deepcopy(module)
    with torch.no_grad():
        for layer in quantize_aware._layers(found).values():
            layer.weight.copy_(rounded_weight()(layer.weight))
    return found


def answers(module, context):
    with torch.no_grad():
        return module(torch.from_numpy(context.calibrate.take(160)[0]["image"])).numpy()


def test_weights_learn_to_bear_rounding(learned, torch_context, monkeypatch):
    coarse(monkeypatch)
    context = torch_context(labels=False, original=learned)
    wanted = answers(learned.module, context)
    before = np.square(answers(on_the_grid(learned.module), context) - wanted).mean()
    found = Step(epochs=8, batch=32, lr=3e-3)(learned, context)
    after = np.square(answers(on_the_grid(found.module), context) - wanted).mean()
    assert after < before / 2, (before, after)
    assert any("layers were trained with int8 in the way" in note for note in context.notes)
    assert any(note.startswith("quantize_aware: 8 passes") for note in context.notes)


def test_the_result_is_the_same_module_in_float_and_can_be_placed_by_the_target(learned, torch_context):
    context = torch_context(original=learned, validate=None)
    found = Step(epochs=1, batch=32)(learned, context)
    before, after = learned.module.state_dict(), found.module.state_dict()
    assert list(before) == list(after) and not found.module.training
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert not any(layer._forward_pre_hooks for layer in found.module.modules())
    context.folder.joinpath("export").mkdir()
    exported = Export()(found, context)
    assert isinstance(exported, OnnxModel)
    rounded = Static()(exported, torch_context(scheme=SCHEME))
    feeds, labels = context.calibrate.take(160)
    got = next(iter(judge(rounded).run(feeds).values())).argmax(1)
    assert (got == labels).mean() > 0.9


def test_masks_stay(learned, torch_context):
    from dataclasses import replace

    name = next(name for name, value in learned.module.named_parameters() if value.ndim == 4)
    mask = torch.ones_like(learned.module.get_parameter(name))
    mask[0] = 0
    pruned = replace(learned, module=copy.deepcopy(learned.module), masks={name: mask})
    with torch.no_grad():
        pruned.module.get_parameter(name).mul_(mask)
    found = Step(epochs=1, batch=32, lr=1e-2)(pruned, torch_context(original=learned, validate=None))
    assert not torch.equal(found.module.get_parameter(name), pruned.module.get_parameter(name))
    assert not found.module.get_parameter(name)[0].any() and found.masks == {name: mask}


def test_a_rounded_weight_has_few_steps_a_channel_and_passes_gradients():
    weight = torch.randn(4, 3, 3, 3, requires_grad=True)
    found = rounded_weight()(weight)
    scale = weight.detach().flatten(1).abs().amax(1) / 127
    steps_of = (found.detach().flatten(1) / scale[:, None]).numpy()
    assert np.abs(steps_of - steps_of.round()).max() < 1e-3 and np.abs(steps_of).max() <= 127.001
    found.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_a_model_without_layers_and_a_recipe_without_quantize_static_are_refused(torch_context):
    class Bare(nn.Module):
        def forward(self, image):
            return image.mean((1, 2, 3))[:, None]

    model = TorchModel(Bare(), (TensorSpec("image", "float32", ("batch", 3, 16, 16)),))
    with pytest.raises(StepError, match="no convolution and no linear layer"):
        Step()(model, torch_context(original=None))
    with pytest.raises(InputError, match="makes weights ready for 'quantize_static': put that after it"):
        steps.complete([Step()], TorchModel)
    names = [steps.name_of(step) for step in steps.complete([Step(), Static()], TorchModel)]
    assert names == ["quantize_aware", "export", "simplify", "quantize_static"]
