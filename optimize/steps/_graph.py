"""What steps on ONNX graphs share: names, constants, opsets, and raising a model to a newer opset or to float32."""

from fnmatch import fnmatch
from typing import Any

import numpy as np

from optimize.models import OnnxModel, write_onnx
from optimize.steps import Context
from optimize.verify import check_equal, judge
from runtime.errors import StepError

RAISED_ERROR = 1e-4  # relative, of a model raised to another opset


def raised(proto: Any, model: OnnxModel, context: Context, opset: int) -> Any:
    """The model in a newer opset, seen to compute the same on calibration data.

    Args:
        proto: of the model.
        model: the file that it was read from, with which the result is compared.
        context: of the step; what was done is noted there.
        opset: the version of ONNX's own ops.

    Raises:
        StepError: an op of it has no way there.
    """
    before = opset_of(proto)
    found = converted(proto, opset)
    check_equal(write_onnx(found, context.folder / "raised.onnx"), judge(model), context, RAISED_ERROR)
    for part in context.folder.glob("raised.onnx*"):
        part.unlink()
    context.notes.append(f"raised from opset {before} to {opset}")
    return found


def converted(proto: Any, opset: int) -> Any:
    """A graph in another opset, not checked; raises StepError where an op of it has no way there."""
    from onnx import version_converter

    before = opset_of(proto)
    proto.ir_version = max(proto.ir_version, 4)  # before it, a weight had to be an input too
    try:
        found = version_converter.convert_version(proto, opset)
    except Exception as error:  # it raises whatever the first op that it cannot convert raises
        raise StepError(f"onnx cannot raise the model from opset {before} to {opset}: {error}") from error
    found.ir_version = max(found.ir_version, 9)  # the first that knows these opsets
    return found


def to_float32(proto: Any) -> bool:
    """Turn what is fp16 into float32, in place; inputs and outputs keep their type, behind casts. False if none is."""
    import onnx

    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs, outputs = (
        [value.name for value in ends if value.type.tensor_type.elem_type == half and value.name not in weights]
        for ends in (proto.graph.input, proto.graph.output)
    )
    found = bool(inputs or outputs)
    todo = [proto.graph]
    while todo:
        graph = todo.pop()
        del graph.value_info[:]  # says fp16 still, and is not needed
        for tensor in graph.initializer:
            found |= _widen(tensor)
        for node in graph.node:
            for attribute in node.attribute:
                todo += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())]
                if attribute.HasField("t"):
                    found |= _widen(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == half:
                    attribute.i, found = single, True
    taken = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    nodes = list(proto.graph.node)
    for name in (*inputs, *outputs):
        wide = fresh(f"{name}__f32", taken)
        for node in nodes:
            for side in (node.input, node.output):
                side[:] = [wide if one == name else one for one in side]
        here, there, kind = (name, wide, single) if name in inputs else (wide, name, half)
        cast = onnx.helper.make_node("Cast", [here], [there], fresh(f"{name}_cast", taken), to=kind)
        proto.graph.node.insert(0 if name in inputs else len(proto.graph.node), cast)
    return found


def _widen(tensor: Any) -> bool:
    import onnx

    if tensor.data_type != onnx.TensorProto.FLOAT16:
        return False
    name = tensor.name
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float32), name))
    return True


def matches(node: Any, pattern: str) -> bool:
    """Whether a pattern of a step's settings means this node, by name or by op type."""
    # a name first: exporters write brackets into names, which mean something in a pattern
    return pattern == node.name or fnmatch(node.name, pattern) or fnmatch(node.op_type, pattern)


def name_nodes(proto: Any) -> None:
    """A name on every node, since reports and settings speak of nodes by name."""
    taken = {node.name for node in proto.graph.node if node.name}
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or fresh(f"{node.op_type}_{index}", taken)


def captured(node: Any) -> set[str]:
    """The names that the inner graphs of a node read, their own included."""
    found: set[str] = set()
    todo = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    while todo:
        graph = todo.pop()
        found |= {name for inner in graph.node for name in inner.input} | {value.name for value in graph.output}
        todo += [g for inner in graph.node for attribute in inner.attribute for g in (attribute.g, *attribute.graphs)]
    return found


def drop_unused(proto: Any) -> None:
    """Remove the nodes and weights that nothing reads any more, in place."""
    nodes = list(proto.graph.node)
    while True:
        read = {name for node in nodes for name in node.input} | {value.name for value in proto.graph.output}
        read |= {name for node in nodes for name in captured(node)}
        used = [node for node in nodes if read & set(node.output)]
        if len(used) == len(nodes):
            break
        nodes = used
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(kept)


def constants_to_weights(proto: Any) -> None:
    """Constant nodes as initializers, which can be had in both forms."""
    kept = []
    for node in proto.graph.node:
        value = next((one for one in node.attribute if one.name == "value"), None)
        if node.op_type == "Constant" and value is not None:
            value.t.name = node.output[0]
            proto.graph.initializer.append(value.t)
        else:
            kept.append(node)
    del proto.graph.node[:]
    proto.graph.node.extend(kept)


def opset_of(proto: Any) -> int:
    """The version of ONNX's own ops that a model uses."""
    return max(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def fresh(name: str, taken: set[str]) -> str:
    """A name for a node that no other has, since ONNX Runtime refuses two of one name; it is taken from now on."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name
