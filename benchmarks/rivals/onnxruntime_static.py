"""ONNX Runtime's static quantization: pre-processed, Q/DQ, per channel, every calibration that it has.

https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
"""

from pathlib import Path
from typing import Any

from rivals import Task, Way, on_onnxruntime
from rivals.onnxruntime_fp32 import fused
from runtime.host import facts
from targets import saturates

FUSED = {"DefaultTensorType": 1}  # float: of fused nodes its shape inference knows nothing
VARIANTS: dict[str, dict[str, Any]] = {
    "S8S8": {},
    "U8S8": {"activation": "QUInt8"},
    "U8S8, entropy": {"activation": "QUInt8", "calibration": "Entropy"},
    "U8S8, percentile": {"activation": "QUInt8", "calibration": "Percentile"},
    "U8S8, fused": {"activation": "QUInt8", "fuse": True},
}


def prepare(task: Task, activation: str = "QInt8", calibration: str = "MinMax", fuse: bool = False) -> list[Way]:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    samples = task.samples(task.calibrate)

    class Reader:
        def get_next(self) -> Any:
            return next(samples, None)

    place = Path(task.out) / "static.onnx"
    quantize_static(
        str(ready(task, fused(task) if fuse else Path(task.onnx))), str(place), Reader(),
        quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=saturates("host", facts(gpus=False)),
        activation_type=QuantType[activation], weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[calibration],
        extra_options=FUSED if fuse else None,
    )  # fmt: skip
    return on_onnxruntime(task, place)


def ready(task: Task, onnx: Path) -> Path:
    """Pre-processed as its documentation asks; without symbolic shapes where these cannot be told."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    place = Path(task.out) / "ready.onnx"
    try:
        quant_pre_process(str(onnx), str(place), auto_merge=True)
    except Exception:  # whatever its shape inference raises
        quant_pre_process(str(onnx), str(place), skip_symbolic_shape=True)
    return place
