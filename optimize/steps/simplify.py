"""Fold constants, fuse what is the same (onnxslim), move Transposes, fold scales into convolutions, reorder GELU.

What then answers otherwise is rolled back.
"""

import logging
from typing import Any, ClassVar

from pydantic import Field

from optimize.models import OnnxModel, framed, read_onnx, write_onnx
from optimize.steps import Context, Settings
from optimize.steps._affine import fold
from optimize.steps._gelu import reorder
from optimize.steps._transposes import sink
from optimize.verify import check_equal, judge
from runtime.errors import Error

log = logging.getLogger(__name__)


class Step(Settings):
    """Settings of the simplifier.

    Attributes:
        tolerance: largest relative error (Euclidean norm) against the file before.
    """

    exact: ClassVar[bool] = True
    tolerance: float = Field(default=1e-3, gt=0)

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a simpler model.onnx, or return the model as it was and say so in the notes."""
        import onnx
        import onnxslim

        try:
            given = onnx.load(model.path)
            slim = onnxslim.slim(given)
            _as_declared(slim, given)
            sink(slim)
            fold(slim)
            reorder(slim)
            written = framed(write_onnx(slim, context.folder / "model.onnx"), model)
            if written.specs.inputs != model.specs.inputs or _ports(written) != _ports(model):
                raise Error(f"its inputs or outputs changed to {written.specs}")
            check_equal(written, judge(model), context, self.tolerance)
        except Exception as error:  # onnxslim raises what the first node that it cannot handle raises
            log.exception("onnxslim's result was rolled back")
            context.notes.append(f"simplify was rolled back: {error}")
            return read_onnx(model.path)
        return written


def _ports(model: OnnxModel) -> list[tuple[str, str]]:
    return [(spec.name, spec.dtype) for spec in model.specs.outputs]


def _as_declared(slim: Any, given: Any) -> None:
    """With the axes that the file declares: no names for inputs' that have none, and outputs' as far as it says them.

    Where it does not declare an output's, they are those that onnxslim worked out.
    """
    for value, before in zip(slim.graph.input, given.graph.input, strict=False):
        for dim, old in zip(value.type.tensor_type.shape.dim, before.type.tensor_type.shape.dim, strict=False):
            if not old.dim_value and not old.dim_param:
                dim.ClearField("dim_param")
    declared = {value.name: value for value in given.graph.output}
    for value in slim.graph.output:
        before = declared.get(value.name)
        if before is not None and before.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.CopyFrom(before.type.tensor_type.shape)
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == "?":  # its word for all that it does not know, which would make them one axis
                dim.ClearField("dim_param")
