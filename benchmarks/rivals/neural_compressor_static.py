"""neural-compressor's static quantization of the torch model (PT2E), exported to ONNX.

https://intel.github.io/neural-compressor/3.0/docs/source/3x/PT_StaticQuant.html
Its documentation runs the result by `torch.compile`; exported, the engines' int8 kernels take it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rivals import Task, Way, on_onnxruntime, on_openvino
from runtime.tensors import Array, Specs, TensorSpec

VARIANTS: dict[str, dict[str, Any]] = {"default": {}}


def prepare(task: Task) -> list[Way]:
    import openvino as ov
    import torch
    from neural_compressor.torch import quantization
    from neural_compressor.torch.export import export

    from optimize.sources import ModelSpec, load
    from optimize.sources.torch import tensors

    inputs = tuple(TensorSpec.from_json(one) for one in task.torch_model["inputs"])
    module = load(ModelSpec(**{**task.model, "inputs": inputs})).model
    example = _pair(next(task.samples(task.calibrate)), inputs)
    dims = {
        size: torch.export.Dim(size, min=1, max=1024) for spec in inputs for size in spec.shape if type(size) is str
    }
    shapes = tuple({axis: dims[size] for axis, size in enumerate(spec.shape) if type(size) is str} for spec in inputs)
    config = quantization.get_default_static_config()
    observed = quantization.prepare(export(module, example, dynamic_shapes=shapes), config)
    with torch.no_grad():
        for feeds in task.samples(task.calibrate):
            observed(*tensors(feeds, inputs))
    place = Path(task.out) / "exported.onnx"
    names = [one.name for one in inputs], [one.name for one in Specs.from_json(task.specs).outputs]
    torch.onnx.export(
        quantization.convert(observed), example, place, dynamo=True, dynamic_shapes=shapes,
        input_names=names[0], output_names=names[1],
    )  # fmt: skip
    return [*on_onnxruntime(task, place), *on_openvino(task, ov.Core().read_model(place))]


def _pair(feeds: Mapping[str, Array], inputs: tuple[TensorSpec, ...]) -> tuple[Any, ...]:
    """A sample twice along each axis that is left open: one of length 1 would be taken for a constant."""
    from optimize.sources.torch import tensors

    return tuple(
        value.repeat(*(2 if isinstance(size, str) else 1 for size in spec.shape))
        for value, spec in zip(tensors(feeds, inputs), inputs, strict=True)
    )
