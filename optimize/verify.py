"""Is this ONNX file the same model? Compared on real data, at several batch sizes, with no optimization in between."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from optimize.data import Split, resized
from optimize.models import Axes, OnnxModel
from runtime import engines
from runtime.cache import digest
from runtime.engines import Session, onnx_files, relative_error
from runtime.errors import EngineError, StepError
from runtime.host import facts
from runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from optimize.steps import Context

SAMPLES = 8  # of real data, for one comparison
LOOKED_AT = 64  # samples, whose shapes are compared
FEW, MANY = 4, 32  # samples, and the numbers in their outputs, from which the noise of a layer is told
NUMBERS = 32_768


def interpreter(model: OnnxModel) -> tuple[str, dict[str, bool]]:
    """The engine that says what an ONNX file means, and its options: ONNX Runtime, every node on its own.

    It has no kernels for bf16; there it is ONNX's own evaluator, which is slow.
    """
    import onnx

    graph = onnx.load(model.path, load_external_data=False).graph
    if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in graph.initializer):
        return "reference", {}
    return "onnxruntime", {"fuse": False}


def judge(model: OnnxModel) -> Session:
    """The session that says what an ONNX file means: nothing is fused.

    Quantized files are computed as they are written, in float between Q and DQ, so it does not saturate as an int8
    kernel of an older processor may.
    """
    engine, options = interpreter(model)
    return engines.get(engine).open({"model": model.path}, model.specs, facts(), options)


class Interpreted:
    """What ONNX files answer to samples, nothing fused; the last two's are kept, for the engines made of them.

    Args:
        feeds: a model's samples, the same ones each time.
    """

    def __init__(self, feeds: Callable[[OnnxModel], dict[str, Array]]) -> None:
        self._feeds = feeds
        self._kept: dict[str, dict[str, Array]] = {}

    def __call__(self, model: OnnxModel) -> Mapping[str, Array]:
        """Outputs by name."""
        key = f"{digest(list(onnx_files(model.path).values()))} {model.specs}"
        found = self._kept.pop(key, None)
        if found is None:
            found = judge(model).run(self._feeds(model))
        self._kept = dict([*self._kept.items()][-1:]) | {key: found}
        return found


def batch_sizes(inputs: Sequence[TensorSpec], axes: Axes) -> tuple[int, ...]:
    """The smallest batch, the largest and one between; the only one where it is fixed."""
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    if isinstance(first, int):
        return (first,)
    limits = axes.get(first, {})
    low, high = limits.get("min", 1), limits.get("max", 16)
    return tuple(sorted({low, min(max(low + 1, 3), high), high}))


def sized_feeds(split: Split, inputs: Sequence[TensorSpec], size: int) -> dict[str, Array]:
    """A batch of `size` real samples, repeated where there are fewer; of inputs of a fixed length as many as that."""
    feeds = split.take(size)[0]
    found = {}
    for spec in inputs:
        value, axis = feeds[spec.name], split.axes.get(spec.name, 0)
        if spec.shape and axis is not None:  # else it is the same for all samples, a single number say
            fixed = spec.shape[axis]
            value = resized({"": value}, fixed if isinstance(fixed, int) else size, {"": axis})[""]
        found[spec.name] = spec.given(value)
    return found


def answered(model: OnnxModel, split: Split) -> tuple[dict[str, Array], dict[str, Array]]:
    """The first samples of a split and what a model answers: so many that the noise in these answers can be told.

    A model that answers with a map needs few of them, one that answers with a few numbers more.
    """
    first = model.specs.inputs[0].shape[0] if model.specs.inputs and model.specs.inputs[0].shape else 1
    few = first if isinstance(first, int) else FEW
    feeds = sized_feeds(split, model.specs.inputs, few)
    outputs = judge(model).run(feeds)
    enough = min(MANY, math.ceil(NUMBERS * few / max(1, sum(value.size for value in outputs.values()))))
    if enough <= few or isinstance(first, int):
        return feeds, outputs
    feeds = sized_feeds(split, model.specs.inputs, enough)
    return feeds, judge(model).run(feeds)


def check_equal(model: OnnxModel, reference: Session, context: "Context", tolerance: float) -> float:
    """Compare an ONNX file with what it came from on calibration data; returns the largest relative error.

    Where an axis beside the batch is open, one of each shape that calibrate's first samples have is compared too.

    Raises:
        StepError: it is larger than the tolerance; the worst output and the batch size are named.
    """
    worst = 0.0
    session, inputs = judge(model), model.specs.inputs
    sizes = batch_sizes(inputs, context.axes)
    batches = ((f"batch {size}", sized_feeds(context.calibrate, inputs, size)) for size in sizes)
    passed: list[str] = []
    for at, feeds in (*batches, *_shapes(context.calibrate, inputs)):
        try:
            found = session.run(feeds)
        except EngineError as failed:
            fits = f", though at {', '.join(passed)} it does: a size is fixed inside" if passed else ""
            raise StepError(f"at {at} the file does not run{fits}: {failed}") from failed
        passed.append(at)
        error, name = relative_error(found, reference.run(feeds))
        if not error <= tolerance:
            raise StepError(f"at {at} the output '{name}' differs by {error:.2g} (relative), more than {tolerance:.2g}")
        worst = max(worst, error)
    return worst


def _shapes(split: Split, inputs: Sequence[TensorSpec]) -> list[tuple[str, dict[str, Array]]]:
    """Of each shape that the first samples have, it and one of them; where the batch and another axis are open."""
    others = [size for spec in inputs for size in spec.shape[1:] if isinstance(size, str)]
    if not others or isinstance(inputs[0].shape[0], int):
        return []
    found: dict[str, dict[str, Array]] = {}
    for seen, (feeds, _) in enumerate(split.batches(1)):
        if seen == LOOKED_AT:
            break
        given = {spec.name: spec.given(feeds[spec.name]) for spec in inputs}
        found.setdefault(", ".join(f"{name} {list(value.shape)}" for name, value in given.items()), given)
    return list(found.items())


def signal_to_noise(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """SQNR in dB of the worst output: 20 log10 of |wanted| / |got - wanted|; infinite where they are equal."""
    error, _ = relative_error(got, wanted)
    return float("inf") if error == 0 else float(-20 * np.log10(error))
