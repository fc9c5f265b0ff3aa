"""How long parts of a torch module take, each by itself on a target's real engine: layers at several widths, blocks.

A layer alone has a call of its own around it and lacks what an engine fuses into it, so its time means little. How much
less it takes with fewer channels means more, and that is what a prediction adds up.
"""

import copy
import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimize import pruning
from optimize.models import TorchModel, write_onnx
from optimize.sources.torch import tensors
from optimize.steps.export import exported
from runtime.contender import Contender, Worker
from runtime.measure import BLOCK_CALLS, BLOCK_S
from runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from torch import nn

OPSET = 18
UNDISTURBED = 0.1  # of the calls: a block has no second one to be compared with, and a neighbour only slows


@dataclass(frozen=True)
class Latency:
    """Of one layer, in milliseconds.

    Attributes:
        takes: numbers of channels that it takes, the fewest first; of a depthwise layer one, for it goes with what it
            gives.
        gives: likewise of those that it gives.
        ms: a row for each of `takes`, a column for each of `gives`.
    """

    takes: tuple[int, ...]
    gives: tuple[int, ...]
    ms: tuple[tuple[float, ...], ...]

    def at(self, takes: int, gives: int) -> float:
        """Between what was measured in straight lines. More channels never take less, whatever was measured."""
        grid = np.maximum.accumulate(np.maximum.accumulate(np.array(self.ms), axis=0), axis=1)
        rows = [np.interp(gives, self.gives, row) for row in grid]
        return float(np.interp(takes, self.takes, rows))


def widths(layer: Any) -> tuple[int, int]:
    """The channels that a convolution or linear layer takes, and those that it gives."""
    if hasattr(layer, "in_channels"):
        return layer.in_channels, layer.out_channels
    return layer.in_features, layer.out_features


def measured(
    model: TorchModel, least: "nn.Module", contender: Contender, feeds: Mapping[str, Array], multiple: int,
    log: Path, progress: Callable[[int, int, str], None],
) -> tuple[float, dict[str, Latency]]:  # fmt: skip
    """The engine's milliseconds for the whole model, and for each layer that may lose channels; of one process.

    Args:
        model: unpruned.
        least: its module with all gone that may go.
        contender: the model's engine; layers are compiled and opened with its options.
        feeds: of the timed call.
        multiple: widths between the ends are multiples of it.
        log: where vendors' chatter goes.
        progress: told how many of how many layers.

    Raises:
        WorkError: the engine does not take a layer.
    """
    shapes = _shapes(model, pruning.layers(model.module), feeds)
    changed = {
        name: layer
        for name, layer in pruning.layers(model.module).items()
        if name in shapes and widths(layer) != widths(least.get_submodule(name))
    }
    open_batch = _open_batch(model, contender)
    known: dict[str, float] = {}
    found: dict[str, Latency] = {}
    with tempfile.TemporaryDirectory() as folder, Worker("the layers", log, modules=contender.modules) as worker:
        whole = _ms(worker, contender, feeds)
        for done, (name, layer) in enumerate(changed.items()):
            progress(done, len(changed), "layers at several widths")
            (takes, gives), (few, fewest) = widths(layer), widths(least.get_submodule(name))
            step = multiple if _depthwise(layer) else math.lcm(multiple, getattr(layer, "groups", 1))
            columns = _between(fewest, gives, step)
            rows = (takes,) if _depthwise(layer) else _between(few, takes, step)

            def timed(one: "nn.Module", shape: tuple[int, ...]) -> float:
                key = f"{one} {shape}"  # layers that say the same of themselves take the same time
                if key not in known:
                    place = Path(folder) / str(len(known))
                    known[key] = _alone(worker, one, shape, open_batch, contender, place)
                return known[key]

            ms = [[sum(timed(*narrowed(layer, shape, a, b)) for shape in shapes[name]) for b in columns] for a in rows]
            found[name] = Latency(rows, columns, tuple(map(tuple, ms)))
    return whole, found


def of_blocks(
    model: TorchModel, names: Sequence[str], contender: Contender, feeds: Mapping[str, Array], log: Path,
    progress: Callable[[int, int, str], None],
) -> tuple[float, dict[str, float]]:  # fmt: skip
    """The engine's milliseconds for the whole model, and for each block of these names; otherwise as `measured`."""
    blocks = {name: model.module.get_submodule(name) for name in names}
    shapes, open_batch = _shapes(model, blocks, feeds), _open_batch(model, contender)
    known: dict[str, float] = {}
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, Worker("the blocks", log, modules=contender.modules) as worker:
        whole = _ms(worker, contender, feeds)
        for done, (name, block) in enumerate(blocks.items()):
            progress(done, len(blocks), "blocks")
            for shape in shapes[name]:
                key = f"{block} {shape}"
                if key not in known:
                    place = Path(folder) / str(len(known))
                    known[key] = _alone(worker, block, shape, open_batch, contender, place)
                found[name] = found.get(name, 0.0) + known[key]
    return whole, found


def _open_batch(model: TorchModel, contender: Contender) -> bool:
    """An engine that is built for a range of sizes gets a part of one size, another one a part as open as the model."""
    ranged = "profiles" in contender.arguments["options"]
    return bool(model.inputs[0].shape) and not ranged and isinstance(model.inputs[0].shape[0], str)


def narrowed(layer: Any, shape: tuple[int, ...], takes: int, gives: int) -> "tuple[nn.Module, tuple[int, ...]]":
    """A copy of a layer with so many channels, and the shape of its input then."""
    from torch_pruning import ops
    from torch_pruning.pruner.function import PrunerBox

    small, prune = copy.deepcopy(layer), PrunerBox[ops.module2type(layer)]
    prune.prune_out_channels(small, list(range(gives, widths(small)[1])))
    if not _depthwise(layer):
        prune.prune_in_channels(small, list(range(takes, widths(small)[0])))
    axis = len(shape) - 1 - len(getattr(layer, "kernel_size", ()))
    return small, (*shape[:axis], widths(small)[0], *shape[axis + 1 :])


def _depthwise(layer: Any) -> bool:
    return getattr(layer, "groups", 1) > 1 and layer.groups == layer.out_channels


def _between(least: int, most: int, step: int) -> tuple[int, ...]:
    """Both, and what lies in the middle."""
    return tuple(sorted({least, min(max(round((least + most) / 2 / step) * step, least), most), most}))


def _shapes(
    model: TorchModel, parts: "Mapping[str, nn.Module]", feeds: Mapping[str, Array]
) -> dict[str, list[tuple[int, ...]]]:
    """What each part takes in this call; one that is called twice takes twice."""
    found: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    handles = [
        part.register_forward_pre_hook(lambda _, given, name=name: found[name].append(tuple(given[0].shape)))
        for name, part in parts.items()
    ]
    try:
        pruning.outputs(model.module, tensors(feeds, model.inputs))
    finally:
        for handle in handles:
            handle.remove()
    return found


def _alone(
    worker: Worker, layer: "nn.Module", shape: tuple[int, ...], open_batch: bool, contender: Contender, folder: Path
) -> float:
    """Milliseconds of one layer."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    spec = TensorSpec("x", "float32", ("batch", *shape[1:]) if open_batch else shape)
    folder.mkdir()
    model = write_onnx(
        exported(layer, (spec,), {"x": x}, ["y"], folder, OPSET, "torchscript"), folder / "model.onnx"
    )  # the tracing exporter takes milliseconds
    engine = contender.arguments["engine"]
    options = {key: value for key, value in contender.arguments["options"].items() if key != "profiles"}
    asked = {"engine": engine, "onnx": str(model.path), "out": str(folder / "engine"), "options": options}
    files = worker.call("runtime.worker:compile_engine", **asked)
    arguments = {"engine": engine, "files": files, "specs": model.specs.to_json(), "options": options}
    return _ms(worker, replace(contender, arguments=arguments, takes=(), streaming=None), {"x": x})


def _ms(worker: Worker, contender: Contender, feeds: Mapping[str, Array]) -> float:
    """Of the engine's own part of a call where nothing disturbs it; of the whole call where it has no such part."""
    worker.open(contender, feeds)
    calls = worker.inside(BLOCK_S, BLOCK_CALLS)
    return float(np.quantile(calls if len(calls) else worker.block(BLOCK_S, BLOCK_CALLS), UNDISTURBED)) / 1e6
