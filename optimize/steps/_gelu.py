"""GELU as engines know it: x (1 + erf) 0.5 in place of x (0.5 (1 + erf)), which torch's exporter writes.

Equal, but ONNX Runtime fuses the first form alone; the second is five passes over what is often the widest tensor.
"""

from typing import Any


def reorder(proto: Any) -> int:
    """Change a graph in place; returns how many were changed."""
    from onnx import numpy_helper

    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    maker = {name: node for node in proto.graph.node for name in node.output}
    users: dict[str, int] = {}
    read = [name for node in proto.graph.node for name in node.input] + [value.name for value in proto.graph.output]
    for name in read:
        users[name] = users.get(name, 0) + 1

    def half(name: str) -> bool:
        tensor = values.get(name)
        return tensor is not None and not tensor.dims and float(numpy_helper.to_array(tensor)) == 0.5

    done = 0
    for node in proto.graph.node:
        if node.op_type != "Mul":
            continue
        for x, scaled in (tuple(node.input), tuple(reversed(node.input))):
            inner = maker.get(scaled)
            if inner is None or inner.op_type != "Mul" or users[scaled] != 1:
                continue
            (constant,) = [name for name in inner.input if half(name)] or [""]
            (added,) = [name for name in inner.input if name != constant] if constant else [""]
            sum_ = maker.get(added)
            if sum_ is None or sum_.op_type != "Add" or users[added] != 1:
                continue
            if any(name in maker and maker[name].op_type == "Erf" for name in sum_.input):
                inner.input[:] = [x, added]
                node.input[:] = [scaled, constant]
                done += 1
                break
    return done
