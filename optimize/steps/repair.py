"""Return layers of a rounded graph to float where they cost more accuracy than time.

Which ones is found by the run, on the target's engine: `optimize.repair` ranks layers by what they regain for each
millisecond that they cost, and makes candidates with the best of them named in `layers`.
"""

from typing import ClassVar

from pydantic import Field

from optimize.models import OnnxModel, write_onnx
from optimize.steps import Context, Settings, name_of
from optimize.steps._float import quantized, to_float
from runtime.errors import InputError, StepError

ROUNDING = "quantize_static"  # what writes Q/DQ pairs beside a float graph of the same names


class Step(Settings):
    """Settings.

    Attributes:
        layers: names of the nodes that multiply in float; none: the run finds them.
        most: of how many layers, those that regain most, the cost is measured.
    """

    label: ClassVar[str] = "repaired"
    layers: tuple[str, ...] = ()
    most: int = Field(default=12, ge=1)

    def check_order(self, before: tuple[Settings, ...], after: tuple[Settings, ...]) -> None:
        """There must be something to repair."""
        if not any(name_of(step) == ROUNDING for step in before):
            raise InputError(f"the step 'repair' mends what a step before it rounded: put it after '{ROUNDING}'.")

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx with these layers in float.

        Raises:
            StepError: the model has no Q/DQ pairs, or no such layer among them.
        """
        import onnx

        proto = onnx.load(model.path)
        known = [node.name for node in quantized(proto)]
        if not known or context.unrounded is None:
            raise StepError("there is nothing to repair: no layer of the model multiplies in int8; quantize it before")
        if lacking := [name for name in self.layers if name not in known]:
            raise StepError(f"no layer '{lacking[0]}' multiplies in int8; those that do: {', '.join(known[:8])}")
        to_float(proto, self.layers, onnx.load(context.unrounded.path))
        return write_onnx(proto, context.folder / "model.onnx")
