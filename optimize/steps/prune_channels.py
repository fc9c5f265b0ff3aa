"""Remove channels, with all that hangs on them (DepGraph, Fang et al. 2023, arXiv:2301.12900; torch-pruning).

Importance is the group's magnitude, its first-order Taylor term (Molchanov et al. 2019, arXiv:1906.10771) or its
batch-norm scales (Liu et al. 2017, arXiv:1708.06519). The goal is a share of channels, of multiply-accumulates or of
parameters, reached in one go or in several with recovery between them; or a measured latency, for which the run finds
how many channels each layer keeps (`optimize.slimming`).
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from optimize import pruning
from optimize.models import Removal, TorchModel, multiplications
from optimize.sources.torch import named_outputs, tensors
from optimize.steps import Context
from optimize.steps._until import Until
from optimize.steps.recover import Step as Recover
from runtime import listing
from runtime.errors import InputError, StepError

if TYPE_CHECKING:
    from torch import Tensor, nn

TAYLOR_SAMPLES = 256  # of calibrate, in calls of TAYLOR_BATCH
TAYLOR_BATCH = 64


@dataclass(frozen=True)
class _Group:
    """Channels that go together, seen from the layer `root` that gives them.

    Attributes:
        sets: groups of a grouped convolution or norm: each loses as many channels as the others.
    """

    root: str
    sets: int


class Step(Until):
    """Settings; exactly one of `ratio`, `macs`, `parameters` and `until` is the goal, or `widths` are given.

    Attributes:
        ratio: share of the removable channels to remove.
        macs: share of the multiply-accumulates to keep.
        parameters: share of the parameters to keep.
        widths: layer to the number of channels that it keeps; of `until` the run finds them.
        importance: what is kept longest.
        scope: channels compete with all others (`global`), or each layer loses the same share (`layer`).
        iterations: in how many equal parts of the goal.
        multiple: numbers of channels kept are multiples of it, as vector units like them.
        include: patterns of names (or classes) of layers that may lose channels.
        exclude: patterns of layers that keep theirs.
        recover: settings of `recover`, applied between iterations.
    """

    trains: ClassVar[bool] = True
    label: ClassVar[str] = "pruned"
    finds: ClassVar[str] = "widths"
    closest: ClassVar[bool] = False  # where the goal cannot be reached, all goes that may
    ratio: float | None = Field(default=None, gt=0, lt=1)
    macs: float | None = Field(default=None, gt=0, lt=1)
    parameters: float | None = Field(default=None, gt=0, lt=1)
    widths: dict[str, int] | None = None
    importance: Literal["magnitude", "taylor", "bn"] = "magnitude"
    scope: Literal["global", "layer"] = "global"
    iterations: int = Field(default=1, ge=1)
    multiple: int = Field(default=8, ge=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    recover: Recover | None = None

    @model_validator(mode="after")
    def _one_goal(self) -> "Step":
        shares, counted = (self.ratio, self.macs, self.parameters), self.until is not None or self.widths is not None
        if sum(goal is not None for goal in shares) + counted != 1:
            raise ValueError(
                "give exactly one of ratio (share to remove), macs and parameters (shares to keep), until (a latency) "
                "and widths"
            )
        if counted and (self.iterations > 1 or self.recover):
            raise ValueError("iterations and recover go with a share; put a step 'recover' behind this one instead")
        if self.until is not None:
            self.sought()
        return self

    def amount(self) -> str:
        """The share that is kept, in percent: of multiplications, of parameters or of channels; or how much faster."""
        if self.until:
            return f"{self.sought()[0]:g}x"
        return "" if self.widths else f"{100 * self._kept():.0f}"

    def _only(self) -> Collection[str] | None:
        """The layers that may lose channels, where that is known already."""
        return self.widths

    def _kept(self) -> float:
        """The share of the amount that is to stay."""
        if self.pending:
            raise StepError(f'how far to prune until "{self.until}" was not found; the notes say why')
        return 1 - self.ratio if self.ratio else (self.macs or self.parameters or 1.0)

    def resolved(self, resolve: Callable[[str], str]) -> "Step":
        """With the path in `recover` made absolute."""
        return self.model_copy(update={"recover": self.recover.resolved(resolve)}) if self.recover else self

    def __call__(self, model: TorchModel, context: Context) -> TorchModel:
        """A smaller model; the one given is not changed.

        Raises:
            InputError: a pattern matches nothing, `widths` cannot be, or the model's weights are masked already.
            StepError: the goal cannot be reached with the channels that may go.
        """
        if model.masks:
            raise InputError("prune_channels comes before prune_weights: masks do not follow channels that go.")
        allowed = set(pruning.chosen(pruning.layers(model.module), self.include, self.exclude))
        arguments = pruning.sample(model, context)
        found = replace(model, module=copy.deepcopy(model.module).eval())
        groups, left_alone = self._groups(found.module, allowed, arguments, context)
        roots = [group.root for group in groups]
        begun = self._amount(found.module, roots, arguments)
        for turn in range(1, self.iterations + 1):
            limit = (1 - (1 - self._kept()) * turn / self.iterations) * begun
            while True:  # until nothing that is chosen turns out to break the invariant
                removals = self._choose(found, groups, limit, begun, roots, arguments, context, left_alone)
                smaller, broken = pruning.remove_channels(found.module, removals, arguments)
                if not broken:
                    break
                left_alone |= broken
                groups = [group for group in groups if group.root not in broken]
            found = replace(found, module=smaller, history=(*found.history, *removals))
            if self.recover and turn < self.iterations:
                folder = context.folder / f"recover-{turn}"
                folder.mkdir(exist_ok=True)
                found = self.recover(found, replace(context, folder=folder))
        context.notes.append(f"prune_channels: {pruning.change_in_words(model, found, context.axes)}")
        context.notes.extend(f"prune_channels left {name} alone: {reason}" for name, reason in left_alone.items())
        return found

    def _groups(
        self, module: "nn.Module", allowed: set[str], arguments: "list[Tensor]", context: Context
    ) -> tuple[list[_Group], dict[str, str]]:
        """The groups that may lose channels, each tried by itself; and those that may not, with why."""
        from torch import nn

        known = pruning.graph(module, arguments)
        names = {layer: name for name, layer in module.named_modules()}
        kinds = (nn.modules.conv._ConvNd, nn.Linear)
        every = list(known.get_all_groups(root_module_types=kinds))
        found: list[_Group] = []
        left_alone: dict[str, str] = {}
        roots, only = [], self._only()
        for done, group in enumerate(every):
            context.progress(done, len(every), "prune_channels: what hangs together")
            root = names[group[0].dep.target.module]
            giving = {
                names[dep.target.module]
                for dep, _ in group
                if isinstance(dep.target.module, kinds) and known.is_out_channel_pruning_fn(dep.handler)
            }
            sets = _sets(group)
            units = len(group[0].idxs) // sets
            if not giving <= allowed or units < 2:
                continue
            roots.append(root)
            if only is not None:  # these were tried when they were found
                found += [_Group(root, sets)] if root in only else []
                continue
            half = [unit + one * units for one in range(sets) for unit in range(0, units - units % 2, 2)]
            _, broken = pruning.remove_channels(module, [Removal(root, tuple(half))], arguments)
            left_alone |= broken
            found += [] if broken else [_Group(root, sets)]
        if unknown := [name for name in only or () if name not in roots]:
            raise InputError(f"widths: {listing.unknown('layer that may lose channels', unknown[0], roots)}")
        if not found and only is None:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_alone.items())
            raise StepError(f"no layer may lose channels ({reasons or 'include and exclude leave none'})")
        return found, left_alone

    def _amount(self, module: "nn.Module", roots: list[str], arguments: "list[Tensor]") -> float:
        """What the goal is a share of."""
        if self.macs:
            return multiplications(module, arguments)
        if self.parameters:
            return sum(value.numel() for value in module.parameters())
        return sum(_channels(module, root) for root in roots)

    def _choose(
        self, model: TorchModel, groups: list[_Group], limit: float, begun: float, roots: list[str],
        arguments: "list[Tensor]", context: Context, others: Collection[str],
    ) -> list[Removal]:  # fmt: skip
        """The fewest, least important channels whose removal brings the amount down to the limit, or to the widths."""
        import torch

        scores = self._scores(model, groups, arguments, context)
        if self.widths is not None:
            return _removals(self._gone(model.module, groups), groups, scores)

        known: dict[tuple[int, ...], float] = {}

        def amount(counts: Mapping[str, int]) -> float:
            key = tuple(counts.values())  # many thresholds give the same multiples
            if key not in known:
                small = pruning.replay(copy.deepcopy(model.module), _removals(counts, groups, scores), arguments)
                known[key] = self._amount(small, roots, arguments)
            return known[key]

        ranked = torch.cat(list(scores.values())).sort().values
        low, high = 0, len(ranked)
        counts = {k: self._counts(k, ranked, groups, scores) for k in (low, high)}
        if (least := amount(counts[high])) > limit:
            if self.closest:
                return _removals(counts[high], groups, scores)
            raise StepError(
                f"the goal is {limit / begun:.0%} of what there was, but {least / begun:.0%} stay where all that may "
                f"go is gone: each layer keeps {self.multiple} channels, and these can lose none: "
                f"{', '.join(others) or 'no others'}"
            )
        if amount(counts[low]) <= limit:
            return []
        while high - low > 1:
            middle = (low + high) // 2
            counts[middle] = self._counts(middle, ranked, groups, scores)
            low, high = (low, middle) if amount(counts[middle]) <= limit else (middle, high)
        # one more channel below the threshold makes many layers step down at once: what was not needed is given back
        best = dict(counts[high])
        stepped = [root for root, count in best.items() if count > counts[low][root]]
        for root in sorted(stepped, key=lambda root: -float(scores[root].sort().values[: best[root]].sum())):
            fewer = {**best, root: counts[low][root]}
            if amount(fewer) <= limit:
                best = fewer
        return _removals(best, groups, scores)

    def _gone(self, module: "nn.Module", groups: list[_Group]) -> dict[str, int]:
        """How many units each group loses to be as wide as `widths` say."""
        gone = {}
        for group in groups:
            stay, there = (self.widths or {})[group.root], _channels(module, group.root)
            if not 1 <= stay <= there or stay % group.sets:
                raise InputError(f"widths: {group.root} has {there} channels, of which {stay} cannot stay")
            gone[group.root] = (there - stay) // group.sets
        return gone

    def _counts(
        self, removed: int, ranked: "Tensor", groups: list[_Group], scores: "Mapping[str, Tensor]"
    ) -> dict[str, int]:
        """How many units each group loses where `removed` of all are to go, before what is kept becomes multiples."""
        counts = {}
        for group in groups:
            units = len(scores[group.root])
            if self.scope == "layer":
                wanted = units * removed / len(ranked)
            else:
                wanted = float((scores[group.root] <= ranked[removed - 1]).sum()) if removed else 0.0
            step = self.multiple // math.gcd(self.multiple, group.sets)
            keeps = [*range(step, units, step), units]
            counts[group.root] = units - min(keeps, key=lambda keep: (abs(keep - (units - wanted)), -keep))
        return counts

    def _scores(
        self, model: TorchModel, groups: list[_Group], arguments: "list[Tensor]", context: Context
    ) -> "dict[str, Tensor]":
        """Importance of each group's units, 1 on average within a group."""
        from torch_pruning import importance as known

        module = copy.deepcopy(model.module)
        found = pruning.graph(module, arguments)
        kinds = {
            "magnitude": known.GroupMagnitudeImportance,
            "taylor": known.GroupTaylorImportance,
            "bn": known.BNScaleImportance,
        }
        measure, magnitude = kinds[self.importance](), known.GroupMagnitudeImportance()
        if self.importance == "taylor":
            _gradients(model, module, context)
        scores = {}
        for group in groups:
            whole = pruning.group_of(found, group.root, range(_channels(module, group.root)))
            score = measure(whole)
            if score is None:  # no batch norm in it
                score = magnitude(whole)
            scores[group.root] = score.detach().nan_to_num(0.0).view(group.sets, -1).mean(0).cpu()
        return scores


def _removals(counts: Mapping[str, int], groups: list[_Group], scores: "Mapping[str, Tensor]") -> list[Removal]:
    """The least important units of each group, in every one of its sets."""
    found = []
    for group in groups:
        if count := counts[group.root]:
            units = len(scores[group.root])
            gone = sorted(scores[group.root].argsort(stable=True)[:count].tolist())
            found.append(Removal(group.root, tuple(unit + one * units for one in range(group.sets) for unit in gone)))
    return found


def kept(model: TorchModel, before: TorchModel) -> dict[str, int]:
    """The `widths` that make a model of what it was before."""
    gone = model.history[len(before.history) :]
    return {removal.name: _channels(model.module, removal.name) for removal in gone}


def _channels(module: "nn.Module", root: str) -> int:
    layer: Any = module.get_submodule(root)
    return int(getattr(layer, "out_channels", None) or layer.out_features)


def _sets(group: Any) -> int:
    """The most groups of a grouped convolution or norm in it; a depthwise convolution is none."""
    from torch import nn

    sets = 1
    for dep, _ in group:
        layer = dep.target.module
        if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups != layer.out_channels:
            sets = max(sets, layer.groups)
        elif isinstance(layer, nn.GroupNorm):
            sets = max(sets, layer.num_groups)
    return sets


def _gradients(model: TorchModel, module: "nn.Module", context: Context) -> None:
    """Fill the gradients of a module.

    Of the cross-entropy with the labels, or with its own answers where there are none; of the mean square of what is no
    classifier.
    """
    import torch
    from torch.nn import functional

    seen = 0
    first = model.inputs[0].shape[0]
    for feeds, labels in context.calibrate.batches(first if isinstance(first, int) else TAYLOR_BATCH):
        with torch.enable_grad():
            answer = next(iter(named_outputs(module(*tensors(feeds, model.inputs))).values()))
            if answer.ndim < 2 or answer.shape[1] < 2:
                loss = answer.square().mean()
            elif labels is not None and labels.dtype.kind in "iu" and labels.ndim == answer.ndim - 1:
                loss = functional.cross_entropy(answer, torch.from_numpy(labels.astype("int64")))
            else:
                loss = functional.cross_entropy(answer, answer.detach().argmax(1))
            torch.autograd.backward(loss)
        seen += len(next(iter(feeds.values())))
        if seen >= TAYLOR_SAMPLES:
            return
