"""NNCF's post-training quantization of the OpenVINO model, in its presets.

https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html
"""

from typing import Any

from rivals import Task, Way, on_openvino

VARIANTS: dict[str, dict[str, Any]] = {
    "performance": {"preset": "PERFORMANCE"},
    "mixed": {"preset": "MIXED"},
    "mixed, full bias correction": {"preset": "MIXED", "fast_bias_correction": False},
}


def prepare(task: Task, preset: str, **settings: Any) -> list[Way]:
    import nncf
    import openvino as ov

    samples = list(task.samples(task.calibrate))
    model = nncf.quantize(
        ov.Core().read_model(task.onnx), nncf.Dataset(samples), preset=nncf.QuantizationPreset[preset],
        target_device=nncf.TargetDevice.CPU, subset_size=len(samples), model_type=kind(task), **settings,
    )  # fmt: skip
    return on_openvino(task, model)


def kind(task: Task) -> Any:
    """What NNCF wants to be told of transformers."""
    import nncf

    return nncf.ModelType.TRANSFORMER if task.transformer else None
