"""Set single weights to zero and keep them so: the masks stay with the model, and recovery holds to them.

The smallest go (Han et al. 2015, arXiv:1506.02626), or N of every M stay (2:4: Mishra et al. 2021, arXiv:2104.08378).

An engine with dense kernels is no faster for zeros; they make the file compress better, and 2:4 is what sparse tensor
cores take.
"""

import copy
import re
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from optimize import pruning
from optimize.models import TorchModel
from optimize.steps import Context, Settings
from runtime.errors import StepError

if TYPE_CHECKING:
    from torch import Tensor


class Step(Settings):
    """Settings.

    Attributes:
        sparsity: share of the weights set to zero, for `unstructured`.
        pattern: `unstructured`, or N:M, of every M along a layer's inputs N are kept.
        scope: `unstructured` weights compete with all others (`global`), or each layer loses the same share (`layer`).
        include: patterns of names (or classes) of layers that may lose weights.
        exclude: patterns of layers that keep theirs.
    """

    trains: ClassVar[bool] = True
    label: ClassVar[str] = "pruned"
    sparsity: float | None = Field(default=None, gt=0, lt=1)
    pattern: str = "unstructured"
    scope: Literal["global", "layer"] = "global"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @field_validator("pattern")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "unstructured" and not (
            re.fullmatch(r"[1-9]\d*:[1-9]\d*", value) and int(value.split(":")[0]) < int(value.split(":")[1])
        ):
            raise ValueError(f'{value!r} is not "unstructured" or N:M with N below M, "2:4" say')
        return value

    @model_validator(mode="after")
    def _whole(self) -> "Step":
        if (self.pattern == "unstructured") != (self.sparsity is not None):
            raise ValueError('give sparsity (share of zeros) or a pattern N:M, "2:4" say, which has its own')
        return self

    def __call__(self, model: TorchModel, context: Context) -> TorchModel:
        """A model with zeros and the masks that keep them; the one given is not changed.

        Raises:
            InputError: a pattern of names matches nothing.
            StepError: no layer can have the pattern.
        """
        import torch

        module = copy.deepcopy(model.module).eval()
        layers = pruning.chosen(pruning.layers(module), self.include, self.exclude)
        weights = {f"{name}.weight": module.get_parameter(f"{name}.weight").detach() for name in layers}
        if self.pattern == "unstructured":
            kept, odd = _smallest(weights, self.sparsity or 0.0, self.scope), list[str]()
        else:
            n, m = map(int, self.pattern.split(":"))
            axes = {f"{name}.weight": int(not getattr(layer, "transposed", False)) for name, layer in layers.items()}
            odd = [name.removesuffix(".weight") for name, weight in weights.items() if weight.shape[axes[name]] % m]
            kept = {
                name: _n_of_m(weight, axes[name], n, m)
                for name, weight in weights.items()
                if not weight.shape[axes[name]] % m
            }
        if not kept:
            raise StepError(f"no layer can have the pattern {self.pattern}: {', '.join(odd) or 'none was chosen'}")
        masks = dict(model.masks)
        for name, mask in kept.items():
            masks[name] = mask & masks[name] if name in masks else mask
            with torch.no_grad():
                module.get_parameter(name).mul_(masks[name])
        total = sum(value.numel() for value in module.parameters())
        zeros = sum(int((~mask).sum()) for mask in masks.values())
        context.notes.append(
            f"prune_weights: {zeros:,} of {total:,} parameters are zero ({zeros / total:.0%}, {self.pattern}). A dense "
            "engine is no faster and no smaller for zeros; the file compresses better"
        )
        if odd:
            context.notes.append(f"prune_weights left {', '.join(odd)} alone: inputs no multiple of {m}")
        return replace(model, module=module, masks=masks)


def _smallest(weights: "dict[str, Tensor]", share: float, scope: str) -> "dict[str, Tensor]":
    """Masks without the smallest magnitudes, of all layers together or of each; exactly the share of them."""
    import torch

    parts = [list(weights)] if scope == "global" else [[name] for name in weights]
    masks = {}
    for names in parts:
        values = torch.cat([weights[name].abs().flatten() for name in names])
        kept = torch.ones_like(values, dtype=torch.bool)
        kept[values.argsort(stable=True)[: round(share * len(values))]] = False
        sizes = [weights[name].numel() for name in names]
        for name, mask in zip(names, torch.split(kept, sizes), strict=True):
            masks[name] = mask.view(weights[name].shape).clone()
    return masks


def _n_of_m(weight: "Tensor", axis: int, n: int, m: int) -> "Tensor":
    """A mask that keeps the n largest of every m along the axis of the inputs."""
    import torch

    last = weight.movedim(axis, -1)
    rows = last.reshape(-1, m).abs()
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, rows.topk(n, dim=1).indices, True)
    return mask.view(last.shape).movedim(-1, axis).contiguous()
