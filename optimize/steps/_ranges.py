"""The range of each tensor on calibration data, streamed: memory holds one batch, and the range is that of all data.

Min-max asks the graph for two numbers a tensor. Percentile and entropy count values in bins over the range that a
first pass found, so that the counts of batches add up to those of one pass over everything. (ONNX Runtime's own
calibrators keep every tensor of every sample; with `CalibMaxIntermediateOutputs` they forget data.)
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from optimize.models import OnnxModel
from optimize.steps import Context
from optimize.steps._probes import Probes, passes
from runtime.engines import library
from runtime.errors import StepError
from runtime.tensors import Array

BINS = 2048
TINY = float(np.finfo(np.float32).tiny)
ENTROPY_BINS, LEVELS = 513, 128  # odd, so that zero has a bin of its own
Method = Literal["minmax", "percentile", "entropy"]
Range = tuple[float, float]


def ranges(
    proto: Any, tensors: Sequence[str], model: OnnxModel, context: Context, samples: int, method: Method,
    percentile: float,
) -> dict[str, Range]:  # fmt: skip
    """The smallest and the largest value that each tensor shall hold.

    Args:
        proto: the graph, in float32.
        tensors: of it, all float32.
        model: whose inputs the data is for.
        context: with the calibration data, and the folder for what is temporary.
        samples: the first ones of the data.
        method: `minmax`: all values; `percentile`: the middle ones; `entropy`: by Kullback-Leibler divergence (Migacz,
            8-bit inference with TensorRT, GTC 2017), by ONNX Runtime's own function.
        percentile: share of the values that is kept, 99.99 say.

    Raises:
        StepError: a tensor has NaN or infinity on the data; the node that gives it is named.
    """
    found = _extremes(proto, tensors, model, context, samples)
    if method == "minmax":
        return found
    counts = _histograms(proto, found, model, context, samples, method)
    if method == "percentile":
        return {name: _middle(count, *found[name], percentile) for name, count in counts.items()}
    return {name: _least_divergence(count, *found[name]) for name, count in counts.items()}


def _extremes(proto: Any, tensors: Sequence[str], model: OnnxModel, context: Context, samples: int) -> dict[str, Range]:
    probes = Probes(proto)
    asked = {}
    for name in tensors:  # both by the largest, since one fold serves all answers
        low = probes.ask(probes.node("ReduceMax", [probes.node("Neg", [name])], keepdims=0))
        asked[name] = low, probes.ask(probes.node("ReduceMax", [name], keepdims=0))
    answers = probes.answer(context.calibrate, model.specs, samples, context.folder)
    found = {name: (-answers[low], answers[high]) for name, (low, high) in asked.items()}
    makers = {name: node for node in proto.graph.node for name in node.output}
    for name in [*(value.name for value in proto.graph.input), *makers]:
        if name in found and not np.isfinite(found[name]).all():
            node = makers.get(name)
            who = f"'{node.name}' ({node.op_type})" if node else f"the input '{name}'"
            raise StepError(f"{who} gives NaN or infinity on calibration data: nothing behind it can be quantized")
    return found


def _histograms(
    proto: Any, extremes: dict[str, Range], model: OnnxModel, context: Context, samples: int, method: Method
) -> dict[str, Array]:
    """Values of each tensor by bin: over its range, or for entropy over as much below zero as above."""
    bins = BINS if method == "percentile" else ENTROPY_BINS
    counts = {name: np.zeros(bins, np.int64) for name in extremes}
    for values in passes(proto, list(extremes), context.calibrate, model.specs, samples, context.folder):
        for name, value in values.items():
            low, high = extremes[name]
            if method == "entropy":
                low, high = -max(-low, high), max(-low, high)
            places = ((value.ravel() - low) * (bins / max(high - low, TINY))).astype(np.int64)
            counts[name] += np.bincount(np.clip(places, 0, bins - 1), minlength=bins)
    return counts


def _middle(counts: Array, low: float, high: float, percentile: float) -> Range:
    """The range that holds so many of 100 values, as many left out below as above; zero stays in it."""
    tail = (1 - percentile / 100) / 2 * counts.sum()
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    step = (high - low) / len(counts)
    first, last = int(np.argmax(below > tail)), int(np.argmax(above > tail))
    return min(low + first * step, max(low, 0.0)), max(high - last * step, min(high, 0.0))


def _least_divergence(counts: Array, low: float, high: float) -> Range:
    ort: Any = library("onnxruntime.quantization.calibrate", "onnxruntime")
    most = max(-low, high)
    if most == 0:
        return low, high
    collector = ort.HistogramCollector("entropy", False, len(counts), LEVELS, None, None)
    edges = np.linspace(-most, most, len(counts) + 1, dtype=np.float32)
    ends = [np.float32(low), np.float32(high)]
    first, last = collector.get_entropy_threshold((counts, edges, *ends, np.float32(most)), LEVELS)
    return float(first), float(last)
