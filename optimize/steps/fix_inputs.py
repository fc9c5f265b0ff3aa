"""Fix inputs of an ONNX file at a number, and open axes at a size; put states behind the other inputs.

Conditions that depend on nothing else are decided, which many engines need.
It comes by itself, before all others, from `[model.fixed]`, `[model.inputs]` and `[model.states]` of an ONNX source.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from optimize.models import OnnxModel, write_onnx
from optimize.sources.onnx import Fixed, constants
from optimize.steps import Context, Settings
from optimize.verify import check_equal, judge
from runtime.engines import library
from runtime.errors import InputError, StepError

log = logging.getLogger(__name__)


class Step(Settings):
    """What is fixed.

    Attributes:
        values: input to its number; the model takes it no more.
        shapes: input to its sizes, and names of axes.
        behind: inputs that stand behind the others: the states.
        tolerance: largest relative error (Euclidean norm) against the file before.
    """

    exact: ClassVar[bool] = True
    values: dict[str, float] = Field(default_factory=dict)
    shapes: dict[str, tuple[int | str, ...]] = Field(default_factory=dict)
    behind: tuple[str, ...] = ()
    tolerance: float = Field(default=1e-3, gt=0)

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write model.onnx into the context's folder.

        Raises:
            StepError: what is fixed is no input of it, or the model then computes something else.
        """
        import onnx
        from onnx import numpy_helper

        try:
            fixed = constants(self.values, model.specs.inputs)
        except InputError as error:
            raise StepError(str(error)) from error
        proto = onnx.load(model.path)
        graph = proto.graph
        left = sorted((one for one in graph.input if one.name not in fixed), key=lambda one: one.name in self.behind)
        left = [onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in left]
        del graph.input[:]
        graph.input.extend(left)
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in fixed.items())
        if any(node.op_type == "If" for node in graph.node):
            proto = _decided(proto, context.folder)  # before sizes are fixed: ONNX Runtime 1.32 fails on some then
            graph = proto.graph
        sizes: dict[str, int | str] = {}
        for one in graph.input:
            dims = one.type.tensor_type.shape.dim
            for dim, size in zip(dims, self.shapes.get(one.name, ()), strict=False):
                if dim.dim_param:
                    sizes[dim.dim_param] = size
                _set(dim, size)
        for one in graph.output:
            for dim in one.type.tensor_type.shape.dim:
                if dim.dim_param in sizes:
                    _set(dim, sizes[dim.dim_param])
        del graph.value_info[:]  # which has the shapes as they were
        written = write_onnx(proto, context.folder / "model.onnx")
        check_equal(written, Fixed(judge(model), fixed), context, self.tolerance)
        said = [f"'{name}' is fixed at {value:g}" for name, value in self.values.items()]
        context.notes.extend([*said, *(f"'{name}' is {list(shape)}" for name, shape in self.shapes.items())])
        return written


def _decided(proto: Any, folder: Path) -> Any:
    """With the branches in place of conditions that are constant now, as ONNX Runtime's basic level does it.

    That gives ops of the standard alone. A model that it does not load, or that is too large, is left as it is.
    """
    import onnx

    ort = library("onnxruntime", "onnxruntime")
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        with tempfile.TemporaryDirectory(dir=folder) as inner:
            settings.optimized_model_filepath = f"{inner}/decided.onnx"
            ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
            found = onnx.load(settings.optimized_model_filepath)
    except Exception:  # ONNX Runtime's errors, and protobuf's of a message over 2 GB, share no base
        log.info("conditions were left as they are", exc_info=True)
        return proto
    used = {node.domain for node in found.graph.node} | {""}
    kept = [entry for entry in found.opset_import if entry.domain in used]
    del found.opset_import[:]
    found.opset_import.extend(kept)
    return found


def _set(dim: object, size: int | str) -> None:
    setattr(dim, "dim_value" if isinstance(size, int) else "dim_param", size)
