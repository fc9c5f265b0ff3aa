"""OpenVINO as it ships, which computes in bf16 where the processor has it, and held to f32.

It reads the ONNX file, or torch's module by its own converter.

https://docs.openvino.ai/2025/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html
https://docs.openvino.ai/2025/openvino-workflow/model-preparation/convert-model-pytorch.html
"""

from typing import Any

from rivals import Task, Way, on_openvino

VARIANTS: dict[str, dict[str, Any]] = {
    "as it ships": {},
    "f32": {"precision": "f32"},
    "from torch": {"convert": True},
    "from torch, f32": {"convert": True, "precision": "f32"},
}


def prepare(task: Task, precision: str | None = None, convert: bool = False) -> list[Way]:
    import openvino as ov

    return on_openvino(task, _converted(task) if convert else ov.Core().read_model(task.onnx), precision)


def _converted(task: Task) -> Any:
    import openvino as ov

    from optimize.sources import ModelSpec, load
    from optimize.sources.torch import tensors
    from runtime.tensors import Specs, TensorSpec

    specs = Specs.from_json(task.specs)
    inputs = tuple(TensorSpec.from_json(one) for one in task.torch_model["inputs"])
    module = load(ModelSpec(**{**task.torch_model, "inputs": inputs})).model
    shapes = [ov.PartialShape([size if isinstance(size, int) else -1 for size in one.shape]) for one in inputs]
    example = tuple(tensors(next(task.samples(task.calibrate)), inputs))
    model = ov.convert_model(module, example_input=example, input=shapes)
    for port, spec in zip((*model.inputs, *model.outputs), (*specs.inputs, *specs.outputs), strict=True):
        port.tensor.set_names({spec.name})
    return model
