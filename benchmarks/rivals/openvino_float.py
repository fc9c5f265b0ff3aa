"""OpenVINO as it ships, which computes in bf16 where the processor has it, and held to f32.

https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html
"""

from typing import Any

from rivals import Task, Way, on_openvino

VARIANTS: dict[str, dict[str, Any]] = {"as it ships": {}, "f32": {"precision": "f32"}}


def prepare(task: Task, precision: str | None = None) -> list[Way]:
    import openvino as ov

    return on_openvino(task, ov.Core().read_model(task.onnx), precision)
