"""What is tried where a recipe names no steps: told from the model, the data, the targets and the objective.

Each list of steps makes candidates of its own, beside the plain model and the vendor's default. Rounding comes in every
way there is, and is repaired where it loses too much; what else is worth a try depends on what the model is made of.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimize import steps
from optimize.data import Facts
from optimize.recipe import Recipe
from optimize.steps import Settings

if TYPE_CHECKING:
    from torch import nn

ENOUGH = 2000  # labelled samples of calibrate, from which on a pruned model has something to learn from
KEPT = (0.7, 0.5)  # shares of the multiplications that pruning keeps; `trials` has more
BLOCKS, GONE = 6, 0.4  # from so many residual blocks on, the share of them that goes
MINUTES = 4  # of training for each at most: a pass of ResNet-56 over 16,000 pictures takes a processor with AVX2 three
QUICK = 100  # samples of calibrate, by which a quick run rounds
HEAVY = 8 * 2**20  # weights of products in bytes, from which on a call may wait for memory

Steps = tuple[Settings, ...]


@dataclass(frozen=True)
class Made:
    """What a model is made of.

    Attributes:
        convolutions: how many layers.
        blocks: how many of several layers each stand in a list of torch's, and may be residual.
        products: bytes of the weights of matrix products.
        trees: it has ops of the domain ai.onnx.ml, which nothing here can make smaller.
        rounded: it multiplies in int8 already.
    """

    convolutions: int
    products: int
    blocks: int = 0
    trees: bool = False
    rounded: bool = False


def lists(recipe: Recipe, model: "nn.Module | Path", facts: Mapping[str, Facts]) -> tuple[Steps, ...]:
    """The lists of steps that a recipe stands for, each complete: its own, or where it names none, what is worth a try.

    Raises:
        InputError: as `Recipe.all_steps`.
    """
    if recipe.steps != "auto":
        return (recipe.all_steps(),)
    made = _made(model)
    found: list[list[Settings]] = []
    if made.trees or made.rounded or not (made.convolutions or made.products):
        return (recipe.whole(()),)
    if recipe.search.quick:
        return (recipe.whole([steps.get("quantize_static").model_validate({"samples": QUICK})]),)
    # what torch wrote as a program cannot be trained, nor be taught through states that go from call to call
    trainable = not isinstance(model, Path) and not recipe.is_program() and not recipe.model.states
    if trainable and made.convolutions and _learnable(facts):
        shares = KEPT[: recipe.search.trials]
        if made.blocks >= BLOCKS and shares:
            # a CPU is faster with fewer layers, and little faster with thinner ones: it takes the place of one share
            found.append(_recovered("prune_blocks", ratio=GONE))
            asked = recipe.search
            searched = bool(asked.time) if asked.trials is None else asked.trials > len(KEPT)
            shares = shares if searched else shares[1:]
        found += [_pruned(share) for share in shares]
    if made.products and not made.convolutions:
        found.append([steps.get("quantize_dynamic")()])
    if made.products >= HEAVY:
        found.append([steps.get("quantize_weights")()])
    if recipe.constraints.objective == "size":
        found.append([steps.get("cast_fp16")()])
    found.append(_rounded("auto"))
    return tuple(recipe.whole(one) for one in found)


def pruned(recipe: Recipe, share: float, importance: str) -> Steps:
    """One more such list, which keeps this share of the multiplications."""
    return recipe.whole(_pruned(share, importance))


def _pruned(share: float, importance: str = "magnitude") -> list[Settings]:
    return _recovered("prune_channels", macs=share, importance=importance)


def _recovered(pruning: str, **settings: Any) -> list[Settings]:
    less = steps.get(pruning).model_validate(settings)
    recover = steps.get("recover").model_validate({"minutes": MINUTES, "patience": 3})
    return [less, recover, *_rounded("onnxruntime")]


def _rounded(method: str) -> list[Settings]:
    return [steps.get("quantize_static").model_validate({"method": method}), steps.get("repair")()]


def _learnable(facts: Mapping[str, Facts]) -> bool:
    seen = facts["calibrate"]
    return seen.labelled and seen.samples >= ENOUGH


def _made(model: "nn.Module | Path") -> Made:
    if isinstance(model, Path):
        return _made_of(model)
    from torch import nn

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    modules = list(model.modules())
    linear = [module.weight for module in modules if isinstance(module, nn.Linear)]
    attention = [one.in_proj_weight for one in modules if isinstance(one, nn.MultiheadAttention)]
    weights = [one for one in (*linear, *attention) if one is not None]
    from optimize.steps.prune_blocks import blocks_of

    return Made(
        convolutions=sum(isinstance(one, kinds) for one in modules),
        products=sum(one.numel() * one.element_size() for one in weights),
        blocks=len(blocks_of(model)),
    )


def _made_of(path: Path) -> Made:
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    sizes = {one.name: 4 * math.prod(one.dims) for one in graph.initializer}
    used = [node for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    return Made(
        convolutions=sum(node.op_type in ("Conv", "ConvTranspose") for node in graph.node),
        products=sum(sizes.get(name, 0) for node in used for name in node.input[:2]),
        trees=any(node.domain == "ai.onnx.ml" for node in graph.node),
        rounded=any(node.op_type in ("QuantizeLinear", "QLinearConv", "MatMulInteger") for node in graph.node),
    )
