"""Train on with int8 in the way, so that the weights learn to bear it (Jacob et al. 2018, arXiv:1712.05877).

In training each layer that multiplies sees its weights rounded by channel, and its input by the range of all before;
gradients pass as if nothing had been rounded. The model that is left is in float: `quantize_static` after the export
places Q/DQ in each target's own scheme. Batch norms need no folding before: they stretch a channel and its scale alike.
"""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from optimize.models import TorchModel
from optimize.steps import Context, Settings
from optimize.steps.recover import Step as Recover
from optimize.steps.recover import taught
from runtime.errors import InputError, StepError

if TYPE_CHECKING:
    from torch import Tensor, nn

KEEP = 0.99  # of the running range, at each batch
WEIGHTS = 127  # the largest number of a weight: symmetric, as all targets have it
ACTIVATIONS = 255


class Step(Recover):
    """Settings: those of `recover`, gentler by default, since the model is trained already."""

    trains: ClassVar[bool] = True
    label: ClassVar[str] = "aware"
    epochs: int = Field(default=3, ge=1)
    lr: float = Field(default=1e-4, gt=0)
    distill: float = Field(default=1.0, ge=0, le=1)
    temperature: float = Field(default=1.0, gt=0)

    def check_order(self, before: tuple[Settings, ...], after: tuple[Settings, ...]) -> None:
        """It makes weights ready for int8, and nothing else."""
        if not any(type(step).__module__.endswith(".quantize_static") for step in after):
            raise InputError("the step 'quantize_aware' makes weights ready for 'quantize_static': put that after it.")

    def __call__(self, model: TorchModel, context: Context) -> TorchModel:
        """The model with weights that lose less in int8, in float; the one given is not changed.

        Raises:
            InputError: as `recover`.
            StepError: it has no layer that multiplies, or training fails from its first step on.
        """
        from torch.nn.utils import parametrize

        module = copy.deepcopy(model.module)
        layers = _layers(module)
        if not layers:
            raise StepError("the model has no convolution and no linear layer to train for int8")
        for layer in layers.values():
            parametrize.register_parametrization(layer, "weight", rounded_weight())
            layer.register_forward_pre_hook(_Rounding())
        masks = {_inner(name, layers): mask for name, mask in model.masks.items()}
        trained = taught(self, replace(model, masks=masks), module, context)
        for layer in _layers(trained).values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        context.notes.append(f"{len(layers)} layers were trained with int8 in the way")
        found = copy.deepcopy(model.module)
        found.load_state_dict(trained.state_dict())  # in the order that it had before
        return replace(model, module=found.eval())


class _Rounding:
    """A hook before a layer: its input on the grid of the range seen so far, which training widens and narrows."""

    def __init__(self) -> None:
        self._range: tuple[float, float] | None = None

    def __call__(self, layer: Any, inputs: "tuple[Tensor, ...]") -> "tuple[Tensor, ...] | None":
        import torch

        x, *others = inputs
        if not x.is_floating_point():
            return None
        if layer.training or self._range is None:
            low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
            if self._range:
                low, high = (KEEP * old + (1 - KEEP) * new for old, new in zip(self._range, (low, high), strict=True))
            self._range = low, high
        low, high = self._range
        scale = max((high - low) / ACTIVATIONS, 1e-12)
        zero = round(-low / scale)
        return (torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, ACTIVATIONS), *others)


def rounded_weight() -> "nn.Module":
    """A parametrization: the weight on the grid of each of its output channels."""
    import torch
    from torch import nn

    class Rounded(nn.Module):
        def forward(self, weight: "Tensor") -> "Tensor":
            scale = (weight.detach().flatten(1).abs().amax(1) / WEIGHTS).clamp(min=1e-12)
            zero = torch.zeros_like(scale, dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(weight, scale, zero, 0, -WEIGHTS, WEIGHTS)

    return Rounded()


def _layers(module: "nn.Module") -> "dict[str, nn.Module]":
    """What multiplies by a weight of its own, output channels first."""
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, kinds)}


def _inner(parameter: str, layers: "dict[str, nn.Module]") -> str:
    """The name of a parameter while its layer is parametrized."""
    layer, _, name = parameter.rpartition(".")
    return f"{layer}.parametrizations.weight.original" if layer in layers and name == "weight" else parameter
