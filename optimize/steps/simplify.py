"""Fold constants, fuse what is exactly the same (onnxslim), reorder GELU; what is not the same is rolled back."""

import logging
from typing import ClassVar

from pydantic import Field

from optimize.models import OnnxModel, framed, read_onnx, write_onnx
from optimize.steps import Context, Settings
from optimize.steps._gelu import reorder
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
            slim = onnxslim.slim(onnx.load(model.path))
            reorder(slim)
            written = framed(write_onnx(slim, context.folder / "model.onnx"), model)
            if written.specs != model.specs:
                raise Error(f"its inputs or outputs changed to {written.specs}")
            check_equal(written, judge(model), context, self.tolerance)
        except Exception as error:  # onnxslim raises what the first node that it cannot handle raises
            log.exception("onnxslim's result was rolled back")
            context.notes.append(f"simplify was rolled back: {error}")
            return read_onnx(model.path)
        return written
