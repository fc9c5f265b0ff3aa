"""What the pruning steps share: names, the dependency graph, the invariant, and how a pruned module is kept on disk.

The graph of what hangs together is torch-pruning's (DepGraph, Fang et al. 2023, arXiv:2301.12900). It is a guess made
from the autograd graph, and some guesses are wrong (through F.pad it couples channel i with i, whatever the padding),
so every removal is proven: the smaller module must compute what the larger one does with these channels at zero.
"""

import contextlib
import copy
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimize.models import Axes, Removal, TorchModel, measures, zeros
from optimize.sources.torch import named_outputs, tensors
from optimize.verify import sized_feeds
from runtime import listing
from runtime.errors import InputError, StepError
from runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optimize.steps import Context

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # relative; a wrong coupling is off by 1e-1 and more, rounding by 1e-6
SAMPLES = 4  # of calibrate, for one comparison


def layers(module: "nn.Module") -> "dict[str, nn.Module]":
    """The convolutions and linear layers, by name."""
    from torch import nn

    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {name: child for name, child in module.named_modules() if isinstance(child, kinds)}


def chosen(
    modules: "Mapping[str, nn.Module]", include: Sequence[str], exclude: Sequence[str]
) -> "dict[str, nn.Module]":
    """Those whose name or class name matches a pattern of `include` and none of `exclude`.

    Raises:
        InputError: a pattern matches nothing, since a misspelt `exclude` would protect nothing in silence.
    """

    def matches(name: str, pattern: str) -> bool:
        return fnmatch(name, pattern) or fnmatch(type(modules[name]).__name__, pattern)

    for pattern in (*include, *exclude):
        if pattern != "*" and not any(matches(name, pattern) for name in modules):
            raise InputError(f"the pattern matches nothing: {listing.unknown('name', pattern, modules)}")
    return {
        name: module
        for name, module in modules.items()
        if any(matches(name, pattern) for pattern in include) and not any(matches(name, pattern) for pattern in exclude)
    }


def sample(model: TorchModel, context: "Context", wanted: int = SAMPLES) -> "list[Tensor]":
    """The arguments of one call on the first samples of calibrate, as many as the model's batch allows."""
    first = model.inputs[0].shape[0] if model.inputs and model.inputs[0].shape else 1
    if isinstance(first, str):
        limits = context.axes.get(first, {})
        size = max(min(wanted, limits.get("max", wanted)), limits.get("min", 1))
    else:
        size = first
    return tensors(sized_feeds(context.calibrate, model.inputs, size), model.inputs)


def graph(module: "nn.Module", arguments: "Sequence[Tensor]") -> Any:
    """torch-pruning's DependencyGraph of a module; its warnings go to the log.

    Raises:
        StepError: it cannot follow the module.
    """
    import torch
    import torch_pruning

    for parameter in module.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)  # it follows gradients, so that a frozen layer would be invisible to it
    try:
        with warnings.catch_warnings(record=True) as caught, torch.enable_grad():
            warnings.simplefilter("always")
            found = torch_pruning.DependencyGraph().build_dependency(module, tuple(arguments))
    except Exception as error:  # it raises what the first operation that it does not know raises
        log.exception("torch-pruning cannot follow the module")
        raise StepError(f"torch-pruning cannot follow this module: {type(error).__name__}: {error}") from error
    for warning in caught:
        log.info("torch-pruning: %s", warning.message)
    return found


def group_of(found: Any, name: str, channels: Sequence[int]) -> Any:
    """All that must go with these output channels of a layer, as a torch-pruning group."""
    layer = found.model.get_submodule(name)
    return found.get_pruning_group(layer, found.get_pruner_of_module(layer).prune_out_channels, list(channels))


def remove_channels(
    module: "nn.Module", removals: Sequence[Removal], arguments: "Sequence[Tensor]"
) -> "tuple[nn.Module, dict[str, str]]":
    """A copy without these channels, proven after each layer's; and the layers where it would be wrong, with why.

    Where there are such layers the copy is unfinished: leave them out and call again. Channels are those of `module`.
    """
    small = copy.deepcopy(module)
    before, after = graph(module, arguments), graph(small, arguments)
    gone: list[Any] = []
    for removal in removals:
        channels = removal.channels or ()
        group = group_of(after, removal.name, channels)
        if not after.check_pruning_group(group):
            return small, {removal.name: "nothing would be left of a layer that hangs on it"}
        gone.append(group_of(before, removal.name, channels))
        try:
            group.prune(record_history=False)
            error = _difference(small, module, before, gone, arguments)
        except Exception as problem:  # shapes that do not meet, in whatever operation comes first
            error = f"the smaller module does not run: {type(problem).__name__}"
            log.info("without channels of %s", removal.name, exc_info=True)
        if error:
            return small, {removal.name: error}
    return small, {}


def outputs(module: "nn.Module", arguments: "Sequence[Tensor]") -> "dict[str, Tensor]":
    """What a call gives, by name, without gradients."""
    import torch

    with torch.no_grad():
        return named_outputs(module(*arguments))


def relative_change(got: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]") -> float:
    """The largest |got - wanted| / |wanted| of an output, in Euclidean norms; infinite where shapes differ."""
    worst = 0.0
    for name, value in wanted.items():
        if got[name].shape != value.shape:
            return float("inf")
        scale = float(value.double().norm())
        error = float((got[name].double() - value.double()).norm())
        worst = max(worst, error / scale if scale else float(error > 0))
        if error != error:
            return float("inf")
    return worst


def replay(module: "nn.Module", history: Sequence[Removal], arguments: "Sequence[Tensor]") -> "nn.Module":
    """Do to a fresh build what was done before, changing it; the weights are still those of the build."""
    found = None
    for removal in history:
        if removal.channels is None:
            remove_block(module, removal.name)
            found = None  # the graph is another one now
        else:
            found = found or graph(module, arguments)
            group_of(found, removal.name, removal.channels).prune(record_history=False)
    return module


def remove_block(module: "nn.Module", name: str) -> None:
    """Put nothing (nn.Identity) in the place of a block, in `module` itself."""
    from torch import nn

    parent, _, key = name.rpartition(".")
    module.get_submodule(parent)._modules[key] = nn.Identity()


def save(model: TorchModel, folder: Path, axes: Axes) -> None:
    """Write weights.safetensors (weights, buffers and masks) and pruning.json (what was removed, in order)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {f"weights/{name}": value for name, value in model.module.state_dict().items()}
    state |= {f"masks/{name}": value for name, value in model.masks.items()}
    # cloned, since safetensors refuses tensors that share memory, as tied weights do
    save_file(
        {name: value.detach().clone().contiguous() for name, value in state.items()}, folder / "weights.safetensors"
    )
    # torch-pruning's own form of a channel's entry: name, whether outputs, channels
    entries = [{"block": r.name} if r.channels is None else [r.name, True, list(r.channels)] for r in model.history]
    shapes = [list(value.shape) for value in zeros(model.inputs, axes)]
    written = {"inputs": [spec.to_json() for spec in model.inputs], "shapes": shapes, "history": entries}
    (folder / "pruning.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, fresh: "nn.Module") -> TorchModel:
    """The model that `save` wrote, made from a fresh build of its entry point, which is changed.

    Raises:
        StepError: the files are damaged, or the build is another one than it was.
    """
    import torch
    from safetensors.torch import load_file

    try:
        written = json.loads((folder / "pruning.json").read_text(encoding="utf-8"))
        inputs = tuple(TensorSpec.from_json(one) for one in written["inputs"])
        history = tuple(
            Removal(one["block"]) if isinstance(one, dict) else Removal(one[0], tuple(one[2]))
            for one in written["history"]
        )
        state = load_file(folder / "weights.safetensors")
        arguments = [
            torch.zeros(shape, dtype=getattr(torch, spec.dtype))
            for shape, spec in zip(written["shapes"], inputs, strict=True)
        ]
        module = replay(fresh.eval(), history, arguments)
        module.load_state_dict(_under(state, "weights/"))
    except Exception as error:  # json, safetensors, torch and torch-pruning have no base in common
        raise StepError(f"{folder} does not fit this build of the model: {type(error).__name__}: {error}") from error
    return TorchModel(module.eval(), inputs, _under(state, "masks/"), history)


def change_in_words(before: TorchModel, after: TorchModel, axes: Axes) -> str:
    """`parameters 855,770 to 400,000 (-53 %), MACs ..., size ...`."""
    names = {"parameters": "parameters", "macs": "MACs", "size_bytes": "bytes"}
    old, new = measures(before, axes), measures(after, axes)
    return ", ".join(
        f"{words} {old[key]:,} to {new[key]:,} ({new[key] / old[key] - 1:+.0%})"
        for key, words in names.items()
        if old.get(key) and key in new
    )


def _difference(small: "nn.Module", whole: "nn.Module", before: Any, gone: Sequence[Any], arguments: Any) -> str:
    """Why the smaller module is not the whole one with these channels at zero; empty where it is."""
    got = outputs(small, arguments)
    with _at_zero(before, gone):
        wanted = outputs(whole, arguments)
    if any(got[name].shape != value.shape for name, value in wanted.items()):
        return "it gives the outputs, whose shape would change"
    change = relative_change(got, wanted)
    return "" if change <= TOLERANCE else f"the result would differ by {change:.2g} (relative) from channels at zero"


@contextlib.contextmanager
def _at_zero(found: Any, groups: Sequence[Any]) -> Iterator[None]:
    """Hold channels at zero in the whole module: where layers give them, and again where layers take them.

    The second, because an activation between them may turn zero into something else (a sigmoid, a batch norm's bias).
    """
    handles = []
    for group in groups:
        for dep, channels in group:
            layer, gives = dep.target.module, found.is_out_channel_pruning_fn(dep.handler)
            axis = _axis(layer)
            if axis is None:
                continue
            if gives:
                handles.append(layer.register_forward_hook(_cleared_output(axis, list(channels))))
            else:
                handles.append(layer.register_forward_pre_hook(_cleared_input(axis, list(channels))))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _axis(layer: Any) -> int | None:
    """Where a layer has its channels, counted from the end for linear layers; None for what has none."""
    from torch import nn

    if isinstance(layer, nn.Linear):
        return -1
    known = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
    return 1 if isinstance(layer, known) else None


def _cleared(value: "Tensor", axis: int, channels: list[int]) -> "Tensor":
    import torch

    return value.index_fill(axis, torch.tensor(channels, device=value.device), 0)


def _cleared_output(axis: int, channels: list[int]) -> Any:
    return lambda layer, arguments, result: _cleared(result, axis, channels)


def _cleared_input(axis: int, channels: list[int]) -> Any:
    return lambda layer, arguments: (_cleared(arguments[0], axis, channels), *arguments[1:])


def _under(state: "Mapping[str, Tensor]", prefix: str) -> "dict[str, Tensor]":
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
