"""ONNX Runtime in float32: threads, and transformers fused by its optimizer.

https://onnxruntime.ai/docs/performance/tune-performance/threading.html
https://onnxruntime.ai/docs/performance/transformers-optimization.html
"""

from pathlib import Path
from typing import Any

from rivals import Task, Way, on_onnxruntime

VARIANTS: dict[str, dict[str, Any]] = {"fp32": {}, "fused": {"fuse": True}}


def prepare(task: Task, fuse: bool = False) -> list[Way]:
    return on_onnxruntime(task, fused(task) if fuse else Path(task.onnx))


def fused(task: Task) -> Path:
    """The graph with attention, GELU and normalizations as one node each; raises ValueError for no transformer."""
    from onnxruntime.transformers.optimizer import optimize_model

    if not task.transformer:
        raise ValueError("it is no transformer")
    model = optimize_model(task.onnx, model_type="bert", num_heads=0, hidden_size=0)
    place = Path(task.out) / "fused.onnx"
    model.save_model_to_file(str(place))
    return place
