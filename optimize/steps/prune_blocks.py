"""Remove whole residual blocks: a CPU is faster with fewer layers, and little faster with thinner ones.

A block is as important as what its absence does to the outputs (in the manner of Men et al. 2024, arXiv:2403.03853, who
look at hidden states). The least important goes, and the others are judged anew without it. The goal is a share or a
number of blocks; or a measured latency, for which the run finds the blocks (`optimize.shortening`).
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from optimize import pruning
from optimize.models import Removal, TorchModel
from optimize.sources.torch import tensors
from optimize.steps import Context
from optimize.steps._until import Until
from optimize.verify import sized_feeds
from runtime import listing
from runtime.errors import InputError, NothingToDo, StepError

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH = 64


class Step(Until):
    """Settings; exactly one of `ratio`, `count` and `until` is the goal, or `blocks` are given.

    Attributes:
        ratio: share of the removable blocks to remove.
        count: how many to remove.
        blocks: those to remove, in this order; of `until` the run finds them.
        samples: of calibrate, on which a block's absence is judged.
        include: patterns of names (or classes) of blocks that may go.
        exclude: patterns of blocks that stay.
    """

    trains: ClassVar[bool] = True
    label: ClassVar[str] = "pruned"
    finds: ClassVar[str] = "blocks"
    ratio: float | None = Field(default=None, gt=0, lt=1)
    count: int | None = Field(default=None, ge=1)
    blocks: tuple[str, ...] | None = None
    samples: int = Field(default=64, ge=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_goal(self) -> "Step":
        given = self.until is not None or self.blocks is not None
        if (self.ratio is not None) + (self.count is not None) + given != 1:
            raise ValueError(
                "give exactly one of ratio (share of the removable blocks), count, until (a latency) and blocks"
            )
        if self.until is not None:
            self.sought()
        return self

    def amount(self) -> str:
        """The share of the blocks that is kept, in percent, how many go, or how much faster it is then."""
        if self.until:
            return f"-blocks{self.sought()[0]:g}x"
        if self.ratio:
            return f"-blocks{100 * (1 - self.ratio):.0f}"
        return f"-{self.count if self.blocks is None else len(self.blocks)}blocks"

    def _named(self, removable: list[str]) -> list[str] | None:
        """The blocks that go, where none is to be judged."""
        if self.pending:
            raise StepError(f'which blocks go until "{self.until}" was not found; the notes say why')
        if self.blocks is None:
            return None
        if unknown := [name for name in self.blocks if name not in removable]:
            raise InputError(f"blocks: {listing.unknown('block that can go', unknown[0], removable)}")
        return list(dict.fromkeys(self.blocks))

    def _number(self, removable: int) -> int:
        """How many go."""
        return self.count or max(1, round((self.ratio or 0) * removable))

    def _cost(self, name: str) -> float:
        """What a block is worth without its importance: of two alike, the dearer one goes."""
        return 1.0

    def __call__(self, model: TorchModel, context: Context) -> TorchModel:
        """A model with fewer blocks; the one given is not changed.

        Raises:
            InputError: a pattern matches nothing, or `blocks` cannot go.
            NothingToDo: no block can go.
            StepError: there are not so many blocks that can go.
        """
        module = copy.deepcopy(model.module).eval()
        removable = _removable(module, pruning.sample(model, context))
        if not removable and self.blocks != ():
            raise NothingToDo(
                "there is no block that can go: a child of an nn.Sequential or nn.ModuleList, with layers in it, whose "
                "output has the shape of its input"
            )
        left = list(
            pruning.chosen({name: module.get_submodule(name) for name in removable}, self.include, self.exclude)
        )
        named = self._named(left)
        count = self._number(len(left)) if named is None else len(named)
        if count > len(left):
            raise StepError(f"{count} blocks are to go, but only {len(left)} can: {', '.join(left)}")
        calls = _calls(model, context, self.samples)
        wanted = [pruning.outputs(module, arguments) for arguments in calls]

        def change() -> float:
            got = [pruning.outputs(module, arguments) for arguments in calls]
            return sum(map(pruning.relative_change, got, wanted)) / len(calls)

        gone: list[str] = []
        while len(gone) < count:
            context.progress(len(gone), count, "prune_blocks")
            if named is None:
                changes = {}
                for name in left:
                    with _without(module, name):
                        changes[name] = change()
                worst = min(left, key=lambda name: changes[name] / self._cost(name))
            else:
                worst = named[len(gone)]
            pruning.remove_block(module, worst)
            left.remove(worst)
            gone.append(worst)
        kept = {name for name, _ in module.named_parameters()}
        masks = {name: mask for name, mask in model.masks.items() if name in kept}
        found = replace(model, module=module, masks=masks, history=(*model.history, *map(Removal, gone)))
        context.notes.append(
            f"prune_blocks: {count} of {len(removable)} blocks removed ({', '.join(gone)}), the outputs differ by "
            f"{change():.2g} (relative) before recovery; {pruning.change_in_words(model, found, context.axes)}"
        )
        return found


def blocks_of(module: "nn.Module") -> "dict[str, nn.Module]":
    """What has layers in it, and is one of several in a list."""
    from torch import nn

    return {
        f"{name}.{key}" if name else key: child
        for name, parent in module.named_modules()
        if isinstance(parent, (nn.Sequential, nn.ModuleList))
        for key, child in parent.named_children()
        if any(child.children()) and pruning.layers(child)
    }


def _removable(module: "nn.Module", arguments: "Sequence[Tensor]") -> list[str]:
    """Blocks in lists whose output, in one call with one tensor, has the shape of their input."""
    from torch import nn

    lists, blocks = (nn.Sequential, nn.ModuleList), blocks_of(module)
    same: dict[str, list[bool]] = {name: [] for name in blocks}

    def watch(name: str) -> Any:
        def hook(block: Any, given: Any, keywords: Any, result: Any) -> None:
            alike = len(given) == 1 and not keywords and getattr(result, "shape", None) == given[0].shape
            same[name].append(alike and result.dtype == given[0].dtype)

        return hook

    handles = [block.register_forward_hook(watch(name), with_kwargs=True) for name, block in blocks.items()]
    try:
        pruning.outputs(module, arguments)
    finally:
        for handle in handles:
            handle.remove()
    found = [name for name in blocks if same[name] == [True]]
    # of a stage and the blocks in it the blocks are meant, of a block and the lists in it the block
    found = [
        name
        for name in found
        if not (isinstance(blocks[name], lists) and any(other.startswith(f"{name}.") for other in found))
    ]
    return [name for name in found if not any(name.startswith(f"{other}.") for other in found)]


def _calls(model: TorchModel, context: Context, samples: int) -> "list[list[Tensor]]":
    first = model.inputs[0].shape[0]
    if isinstance(first, int):
        return [pruning.sample(model, context)]
    limit = context.axes.get(first, {}).get("max", BATCH)
    size = min(BATCH, samples) if limit >= min(BATCH, samples) else limit
    whole = sized_feeds(context.calibrate, model.inputs, samples - samples % size or size)
    count = len(next(iter(whole.values())))
    return [
        tensors({name: value[start : start + size] for name, value in whole.items()}, model.inputs)
        for start in range(0, count, size)
    ]


@contextmanager
def _without(module: "nn.Module", name: str) -> Iterator[None]:
    block = module.get_submodule(name)
    pruning.remove_block(module, name)
    try:
        yield
    finally:
        parent, _, key = name.rpartition(".")
        module.get_submodule(parent)._modules[key] = block
