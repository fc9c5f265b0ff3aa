"""How much a model minds each layer in int8: the outputs' signal to noise and the metric with it alone rounded."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from optimize.data import Split, resized
from optimize.metrics import Metric, Rows
from optimize.models import OnnxModel, write_onnx
from optimize.report import LayerNoise, LayerSensitivity
from optimize.steps._float import quantized, to_float
from optimize.verify import answered, judge, signal_to_noise
from runtime import engines
from runtime.host import facts

JUDGED, JUDGED_SAMPLES = 8, 256  # the layers minded most, and the samples of validate, for the metric


def by_layer(
    before: OnnxModel, after: OnnxModel, calibrate: Split, validate: Split, metric: Metric | None, folder: Path,
    progress: Callable[[int, int, str], None] = lambda done, total, what: None, first: Sequence[LayerNoise] = (),
    limit_s: float = math.inf, notes: list[str] | None = None,
) -> list[LayerSensitivity]:  # fmt: skip
    """Every layer that multiplies in int8, the one that is minded most first.

    Args:
        before: in full precision.
        after: rounded.
        calibrate: for the signal to noise.
        validate: for the metric.
        metric: None where the data has no labels for it.
        folder: for what is temporary.
        progress: told how many of how many layers.
        first: the layers with which to begin, those that add most noise say.
        limit_s: after which no further layer is looked at by itself.
        notes: of those that were not, something is said here.

    Raises:
        EngineError: the model does not run with layers in float.
    """
    import onnx

    exact, rounded = onnx.load(before.path), onnx.load(after.path)
    layers, place = quantized(rounded), {one.name: place for place, one in enumerate(first)}
    layers.sort(key=lambda layer: place.get(layer.name, len(place)))
    end = time.monotonic() + limit_s
    feeds, wanted = answered(before, calibrate)
    found, models = list[LayerSensitivity](), dict[str, OnnxModel]()
    for done, layer in enumerate(layers):
        if found and time.monotonic() >= end:
            if notes is not None:
                notes.append(f"{done} of {len(layers)} layers were looked at alone in int8: {limit_s:.0f} s were up")
            break
        progress(done, len(layers), "each layer alone in int8")
        proto = onnx.ModelProto()
        proto.CopyFrom(rounded)
        to_float(proto, {other.name for other in layers} - {layer.name}, exact)
        models[layer.name] = alone = write_onnx(proto, folder / f"{done}.onnx")
        ratio = signal_to_noise(judge(alone).run(feeds), wanted)
        found.append(LayerSensitivity(name=layer.name, op=layer.op_type, sqnr_db=ratio))
    found.sort(key=lambda one: one.sqnr_db)
    if metric is None or not found:
        return found
    base = value(before, validate, metric)
    sign = 1 if metric.higher_is_better else -1
    for done, one in enumerate(found[:JUDGED]):
        progress(done, JUDGED, "the metric with each layer alone in int8")
        drop = sign * (base - value(models[one.name], validate, metric))
        found[done] = one.model_copy(update={"drop": drop})
    return found


def value(model: OnnxModel, split: Split, metric: Metric) -> float:
    """The metric on the first samples, which have labels, by ONNX Runtime as it comes."""
    first = model.specs.inputs[0].shape[0] if model.specs.inputs[0].shape else 1
    session = engines.get("onnxruntime").open({"model": model.path}, model.specs, facts(), {})
    parts: list[Any] = []
    seen = 0
    for feeds, labels in split.batches(first if isinstance(first, int) else 16):
        size = len(next(iter(feeds.values())))
        if isinstance(first, int) and size < first:
            feeds = resized(feeds, first, split.axes)
        given = {spec.name: spec.given(feeds[spec.name]) for spec in model.specs.inputs}
        outputs = {name: value[:size] for name, value in session.run(given).items()}
        assert labels is not None  # its callers looked
        parts.append(Rows.of(metric.update(outputs, labels)))
        seen += size
        if seen >= JUDGED_SAMPLES:
            break
    session.close()
    return metric.finish(Rows.joined(parts).values)
