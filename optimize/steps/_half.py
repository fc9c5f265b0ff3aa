"""The rewriting of an ONNX graph from float32 to 16 bits: what can be cast, what must stay, the casts in between."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from optimize.steps._graph import captured, constants_to_weights, fresh, opset_of

NO_HALF = "no form of 16 bits"
SCALE = "a scale"
SCALE_ERROR = 2.0**-8  # relative, of a Q/DQ scale that became denormal; half a step of int8
SMALLEST_SCALE = 2.0**-16  # from here on the error is smaller than that


@dataclass(frozen=True)
class Format:
    """A float of 16 bits.

    Attributes:
        name: as ONNX's types have it.
        sign: what the name of a tensor's form in it ends in.
        maximum: its largest number.
    """

    name: str
    sign: str
    maximum: float

    @property
    def kind(self) -> int:
        """ONNX's number of it."""
        import onnx

        return int(onnx.TensorProto.DataType.Value(self.name.upper()))

    def narrow(self, value: Any) -> Any:
        """In its numbers, and infinite where it has none."""
        import onnx

        with np.errstate(over="ignore"):
            return value.astype(onnx.helper.tensor_dtype_to_np_dtype(self.kind))

    def rounded(self, value: Any) -> Any:
        """As `narrow`, but in float32."""
        return self.narrow(value).astype(np.float32)


FP16 = Format("float16", "__f16", 65504.0)
BF16 = Format("bfloat16", "__bf16", 3.3895e38)

# What an op's dtype says outside of its inputs: left as it is, and cast where it goes.
_BY_ATTRIBUTE = {
    "Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "Multinomial", "Bernoulli", "BlackmanWindow", "HannWindow", "HammingWindow", "MelWeightMatrix",
}  # fmt: skip


class HalfGraph:
    """A graph on its way from float32 to 16 bits.

    A tensor keeps its name as long as it is float32; its short form has another (`x__f16`). So a name never changes its
    type, and what asks for the float32 form by name, an inner graph say, still finds it.

    Attributes:
        proto: the model, changed by `cast`.
        before: the same as it was.
        nodes: of `before`.
        floats: names of float32 tensors, in the order in which they are made.
        weights: initializers by name.
        format: of 16 bits.
        sign: what the name of a tensor's form of 16 bits ends in.
        halved: float32 name to the other, of what ops compute in 16 bits.
    """

    def __init__(self, proto: Any, kinds: dict[str, str], format: Format = FP16) -> None:
        import onnx

        constants_to_weights(proto)
        self.format = format
        if format is FP16:
            _raise_scales(proto)
        self.proto = proto
        self.before = onnx.ModelProto()
        self.before.CopyFrom(proto)
        self.nodes = list(self.before.graph.node)
        self.weights = {tensor.name: tensor for tensor in self.before.graph.initializer}
        self.halved: dict[str, str] = {}
        named = [*self.weights, *kinds, *(value.name for value in proto.graph.input)]
        self.sign = format.sign  # longer where the model has such names, being cast in part already
        while any(name.endswith(self.sign) for name in named):
            self.sign += "_"
        single = onnx.TensorProto.FLOAT
        given = [value.name for value in proto.graph.input if value.type.tensor_type.elem_type == single]
        given += [name for name, tensor in self.weights.items() if tensor.data_type == single]
        made = [name for node in self.nodes for name in node.output if kinds.get(name) == "tensor(float)"]
        self.floats = dict.fromkeys([*given, *made])
        self._opset = opset_of(proto)
        self._others = {name for name, kind in kinds.items() if not kind.startswith("tensor(")}

    def without_half(self) -> dict[int, str]:
        """Nodes that have no form of 16 bits, or hold a graph of their own, which is left as it is."""
        return {
            index: NO_HALF
            for index, node in enumerate(self.nodes)
            if node.op_type in _BY_ATTRIBUTE
            or any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)
            or any(name in self._others for name in (*node.input, *node.output))
            or not any(name in self.floats for name in (*self.castable(node, True), *self.castable(node, False)))
        }

    def small_or_large_constants(self) -> dict[int, str]:
        """Nodes with a constant that does not fit: too large, a single number that becomes 0, a scale too small."""
        import onnx

        kept: dict[int, str] = {}
        for index, node in enumerate(self.nodes):
            for position, name in enumerate(node.input):
                if name not in self.weights or name not in self.floats:
                    continue
                value = onnx.numpy_helper.to_array(self.weights[name])
                half = self.format.rounded(value)
                scale = node.op_type in ("QuantizeLinear", "DequantizeLinear") and position == 1
                if not np.isfinite(half).all() and node.op_type != "Clip":  # a bound is as good at the largest
                    kept[index] = f"a constant over {self.format.maximum:.6g}"
                elif value.size == 1 and value.any() and not half.any():
                    kept[index] = f"a constant of {float(value.ravel()[0]):.2g}"
                elif scale and (np.abs(half - value) > SCALE_ERROR * np.abs(value)).any():
                    kept[index] = f"{SCALE} of {float(np.abs(value).min()):.2g}"
            for attribute in node.attribute:
                if attribute.name == "epsilon" and attribute.f > 0 and not self.format.rounded(np.float32(attribute.f)):
                    kept[index] = f"an epsilon of {attribute.f:.2g}"
        return kept

    def follow(self, kept: dict[int, str], keep_io: bool) -> None:
        """Q/DQ go with the ops that they serve, else a cast would come between, and the pair would not be fused."""
        readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.input:
                readers.setdefault(name, []).append(index)
        for index, node in enumerate(self.nodes):
            after = readers.get(node.output[0], []) if node.op_type == "DequantizeLinear" else []
            if SCALE in kept.get(index, ""):
                kept |= {reader: kept[index] for reader in after if reader not in kept}
            if after and all(reader in kept for reader in after):
                kept.setdefault(index, "")
        given = set() if keep_io else {value.name for value in self.proto.graph.input}
        single = self.floats.keys() - self.weights.keys() - given
        for index, node in enumerate(self.nodes):
            if node.op_type == "QuantizeLinear" and node.input[0] in single:
                kept.setdefault(index, "")
            if index not in kept:
                single -= set(node.output)

    def castable(self, node: Any, inputs: bool) -> list[str]:
        """The float32 tensors of a node that may be of 16 bits instead, by what ONNX says of the op."""
        names = list(node.input if inputs else node.output)
        allowed = _ports(node.op_type, node.domain, self._opset, inputs, self.format)
        if not allowed:
            return []
        return [
            name for position, name in enumerate(names)
            if name in self.floats and allowed[min(position, len(allowed) - 1)]  # the last may stand for many
        ]  # fmt: skip


def cast(graph: HalfGraph, kept: Mapping[int, str], keep_io: bool) -> None:
    """Rewrite `graph.proto`: every node that is not kept computes in 16 bits, with casts where the two meet."""
    import onnx

    proto = graph.proto.graph
    inner = {name for node in graph.nodes for name in captured(node)}
    ports = [] if keep_io else [each for each in (*proto.input, *proto.output) if each.name in graph.floats]
    swapped = {port.name for port in ports} - inner
    for port in ports:
        if port.name in swapped:
            port.type.tensor_type.elem_type = graph.format.kind
    forms = _Forms(graph, swapped, {value.name for value in proto.input if value.name in swapped})
    for index, node in enumerate(graph.nodes):
        new = onnx.NodeProto()
        new.CopyFrom(node)
        inputs, outputs = ((), ()) if index in kept else (graph.castable(node, True), graph.castable(node, False))
        for name in captured(node) & graph.floats.keys():
            forms.want(name, half=False)
        for position, name in enumerate(node.input):
            if name in graph.floats:
                new.input[position] = forms.want(name, half=name in inputs)
        for position, name in enumerate(node.output):
            if name in graph.floats:
                new.output[position] = forms.make(name, half=name in outputs)
        for attribute in new.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and node.output[0] in outputs:
                attribute.i = graph.format.kind
        forms.nodes.append(new)
    for value in proto.output:
        if value.name in graph.floats:
            forms.want(value.name, half=value.name in swapped)
    used = {name for node in forms.nodes for name in (*node.input, *captured(node))}
    used |= {value.name for value in proto.output}
    weights = [tensor for tensor in (*proto.initializer, *forms.weights) if tensor.name in used]
    listed = [value for value in proto.input if value.name in used or value.name not in graph.weights]
    for field, values in (("node", forms.nodes), ("initializer", weights), ("input", listed), ("value_info", [])):
        proto.ClearField(field)
        getattr(proto, field).extend(values)


class _Forms:
    """The two forms of each tensor, made where they are first wanted.

    Attributes:
        nodes: the new graph's, in order; casts are put in.
        weights: forms of weights in 16 bits.
    """

    def __init__(self, graph: HalfGraph, swapped: set[str], halves: set[str]) -> None:
        self._graph = graph
        self._swapped = swapped  # inputs and outputs whose own name is that of their short form
        self._halves = halves  # what is made in 16 bits; all else is made in float32
        self._cast: set[str] = set()
        self._taken = {node.name for node in graph.nodes}
        self._makers = {name: node for node in graph.nodes for name in node.output}
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def make(self, name: str, half: bool) -> str:
        """The name under which a node gives this tensor."""
        if half:
            self._halves.add(name)
            self._graph.halved[name] = self._named(name, True)
        return self._named(name, half)

    def want(self, name: str, half: bool) -> str:
        """The name under which a node can read this tensor."""
        import onnx

        wanted = self._named(name, half)
        if wanted in self._cast:
            return wanted
        if name in self._graph.weights:
            if half:
                self._cast.add(wanted)
                value = onnx.numpy_helper.to_array(self._graph.weights[name])
                narrow, most = self._graph.format.rounded(value), self._graph.format.maximum
                # a bound of Clip that is too large; other ops with such a constant are kept in float32
                narrow = np.where(np.isfinite(value), np.clip(narrow, -most, most), narrow)
                self.weights.append(onnx.numpy_helper.from_array(self._graph.format.narrow(narrow), wanted))
        elif (name in self._halves) != half:
            self._cast.add(wanted)
            self.nodes.append(self._other(name, wanted, half))
        return wanted

    def _other(self, name: str, wanted: str, half: bool) -> Any:
        """The node that gives a tensor's other form."""
        import onnx

        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":  # a second one: with a cast it would not be fused
            twin = onnx.NodeProto()
            twin.CopyFrom(maker)
            twin.name, twin.output[0] = fresh(f"{wanted}_twin", self._taken), wanted
            twin.input[1] = self.want(maker.input[1], half)
            return twin
        kind = self._graph.format.kind if half else onnx.TensorProto.FLOAT
        called = fresh(f"{wanted}_cast", self._taken)
        return onnx.helper.make_node("Cast", [self._named(name, not half)], [wanted], called, to=kind)

    def _named(self, name: str, half: bool) -> str:
        if name in self._swapped:
            return name if half else f"{name}__f32"
        return f"{name}{self._graph.sign}" if half else name


@cache
def _ports(op: str, domain: str, opset: int, inputs: bool, format: Format) -> tuple[bool, ...]:
    """Of each formal input (or output) whether it may be of 16 bits; nothing for an op that ONNX does not have."""
    import onnx

    if domain not in ("", "ai.onnx"):
        return ()
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return ()
    return tuple(f"tensor({format.name})" in port.types for port in (schema.inputs if inputs else schema.outputs))


def _raise_scales(proto: Any) -> None:
    """Weights of channels that are nearly 0 in coarser steps, since fp16 has no scale as small as theirs.

    Trained networks have such channels; their scales would become 0. The step stays under 2e-5.
    """
    import onnx

    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "DequantizeLinear" or not {node.input[0], node.input[1]} <= held.keys():
            continue
        weight, scale = (onnx.numpy_helper.to_array(held[name]) for name in node.input[:2])
        zero = onnx.numpy_helper.to_array(held[node.input[2]]) if len(node.input) > 2 else np.zeros(1)
        small = np.abs(FP16.rounded(scale) - scale) > SCALE_ERROR * scale
        if weight.dtype != np.int8 or scale.dtype != np.float32 or scale.ndim > 1 or zero.any() or not small.any():
            continue
        raised = np.where(small, np.float32(SMALLEST_SCALE), scale).astype(np.float32)
        axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
        along = [1] * weight.ndim
        if scale.ndim:
            along[axis] = -1
        steps = np.rint(weight * (scale / raised).reshape(along)).astype(np.int8)
        for position, value in ((0, steps), (1, raised)):
            name = f"{node.input[position]}__raised"
            proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
            node.input[position] = name
