"""ONNX Runtime's dynamic quantization, which its documentation recommends for transformers.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from pathlib import Path
from typing import Any

from rivals import Task, Way, on_onnxruntime
from rivals.onnxruntime_fp32 import fused
from rivals.onnxruntime_static import FUSED, ready
from runtime.host import facts
from targets import saturates

VARIANTS: dict[str, dict[str, Any]] = {
    "int8": {},
    "int8 per channel": {"per_channel": True},
    "int8 per channel, fused": {"per_channel": True, "fuse": True},
    "uint8": {"weights": "QUInt8"},
}


def prepare(task: Task, weights: str = "QInt8", per_channel: bool = False, fuse: bool = False) -> list[Way]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    place = Path(task.out) / "dynamic.onnx"
    quantize_dynamic(
        str(fused(task) if fuse else ready(task, Path(task.onnx))), str(place), per_channel=per_channel,
        reduce_range=saturates("host", facts(gpus=False)), weight_type=QuantType[weights],
        extra_options=FUSED if fuse else None,
    )  # fmt: skip
    return on_onnxruntime(task, place)
