"""A graph made ready to be rounded: in float32, in an opset that has all that is needed, with a name on every node."""

from collections.abc import Sequence
from typing import Any

from optimize.models import OnnxModel
from optimize.steps import Context, Settings, name_of
from optimize.steps._graph import constants_to_weights, name_nodes, opset_of, raised, to_float32
from runtime.errors import InputError, NothingToDo

OLDEST_OPSET = 17
_ROUNDED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "MatMulNBits",
}  # fmt: skip


def refuse_twice(step: Settings, before: Sequence[Settings]) -> None:
    """Raise InputError where a step before has rounded the model already."""
    rounding = ("quantize_static", "quantize_dynamic", "quantize_weights", "quantize_torch")
    if done := [name_of(one) for one in before if name_of(one) in rounding]:
        raise InputError(
            f"the step '{name_of(step)}' cannot round what '{done[0]}' has rounded already: name one of them."
        )


def in_float32(model: OnnxModel, context: Context) -> Any:
    """Read a model; what was done to it is noted.

    Raises:
        NothingToDo: it is quantized already.
        StepError: it cannot be raised to the opset.
    """
    import onnx

    proto = onnx.load(model.path)
    if done := sorted({node.op_type for node in proto.graph.node} & _ROUNDED):
        raise NothingToDo(f"the model is quantized already, it has {', '.join(done)}: give the one before that")
    if opset_of(proto) < OLDEST_OPSET:
        proto = raised(proto, model, context, OLDEST_OPSET)
    if to_float32(proto):
        context.notes.append("its half precision was raised to float32 before quantizing")
    constants_to_weights(proto)
    name_nodes(proto)
    return proto
