"""NNCF's quantization with accuracy control: layers return to float until the drop on validate is allowed.

https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training/quantizing-with-accuracy-control.html
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from optimize import metrics
from optimize.metrics import Rows
from rivals import Task, Way, on_openvino
from rivals.nncf_quantize import kind
from runtime.tensors import Specs

VARIANTS: dict[str, dict[str, Any]] = {"mixed": {}}


def prepare(task: Task) -> list[Way]:
    import nncf
    import openvino as ov

    metric = metrics.get(task.metric, task.better)
    outputs = [spec.name for spec in Specs.from_json(task.specs).outputs]
    labels = np.load(task.labels)
    samples = list(task.samples(task.calibrate))
    validate = [(feeds, labels[row : row + 1]) for row, feeds in enumerate(task.samples(task.validate))]

    def judged(model: Any, items: Iterable[Any]) -> tuple[float, None]:
        rows = []
        for feeds, label in items:
            found = model(feeds)
            rows.append(Rows.of(metric.update({name: found[name] for name in outputs}, label)))
        value = metric.finish(Rows.joined(rows).values)
        return value if metric.higher_is_better else -value, None

    model = nncf.quantize_with_accuracy_control(
        ov.Core().read_model(task.onnx), nncf.Dataset(samples), nncf.Dataset(validate, lambda item: item[0]), judged,
        max_drop=task.max_drop, preset=nncf.QuantizationPreset.MIXED, target_device=nncf.TargetDevice.CPU,
        subset_size=len(samples), model_type=kind(task),
    )  # fmt: skip
    return on_openvino(task, model)
