"""What steps take and return: a model in torch, or one in an ONNX file on disk."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from optimize import filekind
from runtime.decoding import Decoding
from runtime.engines import onnx_files
from runtime.errors import InputError
from runtime.tensors import Frame, Specs, TensorSpec

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

log = logging.getLogger(__name__)

DECODING = "decoding"  # in an ONNX file's metadata, where its outputs are decoded
FRAME = "frame:"  # in an ONNX file's metadata, before the name of an input that is a picture
EXTERNAL_DATA_BYTES = 1_500_000_000  # protobuf ends at 2 GB; weights above this lie in a file beside


Axes = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Removal:
    """What pruning took out of a module: some output channels of a layer with all that hangs on them, or a block.

    Attributes:
        name: of the layer, or of the block.
        channels: as they were counted before this removal; None where the whole block was replaced by nothing.
    """

    name: str
    channels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TorchModel:
    """A module in eval mode and what it takes.

    Attributes:
        masks: parameter name to a bool tensor of its shape: where it is False the weight is zero, and training that
            follows keeps it so.
        history: what was removed, in order; replayed on a fresh build it gives this module's shape.
        file: the program that torch wrote and the module runs; None where it is built by code.
    """

    module: "nn.Module"
    inputs: tuple[TensorSpec, ...]
    masks: Mapping[str, "Tensor"] = field(default_factory=dict)
    history: tuple[Removal, ...] = ()
    file: Path | None = None


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file, perhaps with external data beside it in `<name>.data`, its inputs and outputs, and its op types."""

    path: Path
    specs: Specs
    ops: frozenset[str] | None = None

    @property
    def rounds(self) -> bool:
        """Whether numbers are rounded to a few levels on the way: what was all but equal may be a level apart then."""
        return "QuantizeLinear" in (self.ops or ())


def read_onnx(path: Path) -> OnnxModel:
    """Read what an ONNX file takes and gives, having checked that its external data stays in its folder.

    Raises:
        InputError: no such file, not an ONNX model, newer than the package onnx, with external data that is missing or
            elsewhere, or with an input or output that numpy cannot hold.
    """
    if not path.is_file():
        raise InputError(f"no such file: {path} (the ONNX model).")
    model = _parsed(path)
    for location in external(model):
        _check_external(path, location)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    frames = {entry.key: entry.value for entry in model.metadata_props if entry.key.startswith(FRAME)}
    specs = []
    for spec in _specs(inputs, path):
        try:
            told = frames.get(FRAME + spec.name)
            specs.append(replace(spec, frame=Frame.from_json(json.loads(told))) if told else spec)
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: what its metadata says of the picture '{spec.name}' is damaged.") from error
    kinds = frozenset(node.op_type for node in model.graph.node)
    return OnnxModel(path, Specs(tuple(specs), _decoded(model, path)), kinds)


def _parsed(path: Path) -> "onnx.ModelProto":
    """The file without its external data; raises InputError where it is none, or newer than what is installed."""
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, and others for truncated files
        size = path.stat().st_size
        why = f": its {size} bytes cannot be read ({error}); it may be damaged or cut off"
        raise InputError(f"{path} is not an ONNX model{filekind.told(path) or why}.") from error
    if not model.graph.node or not model.graph.output or not model.opset_import:
        why = ": it has no nodes, no outputs or no opset"
        raise InputError(f"{path} is not an ONNX model{filekind.told(path) or why}.")
    newest = onnx.defs.onnx_opset_version()
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    for what, got, most in (("IR version", model.ir_version, onnx.IR_VERSION), ("opset", opset, newest)):
        if got > most:
            raise InputError(
                f"{path} has {what} {got}; onnx {onnx.__version__}, which is installed, knows them up to {most}: "
                "pip install -U onnx onnxruntime, or export the model for an older one."
            )
    return model


def external(model: "onnx.ModelProto") -> dict[str, None]:
    """Every file that a model's weights lie in, as it names them, in order."""
    import onnx

    outside = (tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL)
    return dict.fromkeys(
        next((entry.value for entry in tensor.external_data if entry.key == "location"), "") for tensor in outside
    )


def _decoded(model: "onnx.ModelProto", path: Path) -> tuple[TensorSpec, ...]:
    """The outputs, with what the metadata says of them."""
    outputs = _specs(model.graph.output, path)
    told = {entry.key: entry.value for entry in model.metadata_props}.get(DECODING)
    if not told:
        return outputs
    try:
        decoding = Decoding.from_json(json.loads(told))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: what its metadata says of its outputs is damaged.") from error
    return tuple(replace(spec, decoding=decoding) if spec.name == decoding.of[0] else spec for spec in outputs)


def framed(model: OnnxModel, before: OnnxModel) -> OnnxModel:
    """A model that came of another, its inputs pictures where those were, though its file may no longer say so."""
    known = {spec.name: spec for spec in before.specs.inputs}
    inputs = tuple(
        replace(spec, frame=spec.frame or known[spec.name].frame)
        if spec.name in known and known[spec.name].dtype == spec.dtype
        else spec
        for spec in model.specs.inputs
    )
    return replace(model, specs=replace(model.specs, inputs=inputs))


def write_onnx(model: "onnx.ModelProto", path: Path) -> OnnxModel:
    """Write a model without what exporters leave in it of the user's machine; weights beside it where it is large."""
    import onnx

    strip(model)
    # counted by the weights: a message over 2 GB cannot be asked for its own size
    large = sum(len(tensor.raw_data) for tensor in _tensors(model)) > EXTERNAL_DATA_BYTES
    path.parent.mkdir(parents=True, exist_ok=True)
    if large:
        onnx.save_model(
            model, path, save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data"
        )
    else:
        onnx.save_model(model, path)
    return read_onnx(path)


def strip(model: "onnx.ModelProto") -> None:
    """Drop documentation strings and metadata: they hold source paths and stack traces, and spoil equal rebuilds."""
    for message in (model, *model.functions, *_inside(model)):
        message.doc_string = ""
        if "metadata_props" in message.DESCRIPTOR.fields_by_name:
            kept = [entry for entry in message.metadata_props if entry.key.startswith(FRAME) or entry.key == DECODING]
            del message.metadata_props[:]
            message.metadata_props.extend(kept)


def measures(model: TorchModel | OnnxModel, axes: Axes | None = None) -> dict[str, int]:
    """`parameters` and `size_bytes` of a model, an ONNX file's as it lies on disk; of a torch model also `macs`.

    These are multiplications of one call at the smallest sizes (batch 1), left out where the module does not run so.
    """
    if isinstance(model, TorchModel):
        values = list(model.module.parameters())
        size = sum(value.numel() * value.element_size() for value in values)
        found = {"parameters": sum(value.numel() for value in values), "size_bytes": size}
        count = macs(model, axes or {})
        return found if count is None else {**found, "macs": count}
    import onnx

    proto = onnx.load(model.path, load_external_data=False)
    sizes = (math.prod(tensor.dims) for tensor in _tensors(proto) if len(tensor.dims) > 0)
    return {
        "parameters": sum(sizes),
        "size_bytes": sum(part.stat().st_size for part in onnx_files(model.path).values()),
    }


def zeros(inputs: Sequence[TensorSpec], axes: Axes) -> "list[Tensor]":
    """Arguments full of zeros, named axes at their smallest size (1 where nothing is said of them)."""
    import torch

    shapes = [[n if isinstance(n, int) else axes.get(n, {}).get("min", 1) for n in spec.shape] for spec in inputs]
    return [torch.zeros(shape, dtype=getattr(torch, spec.dtype)) for shape, spec in zip(shapes, inputs, strict=True)]


def macs(model: TorchModel, axes: Axes) -> int | None:
    """Multiply-accumulates of one call in convolutions and matrix products; None where the module does not run."""
    try:
        return multiplications(model.module, zeros(model.inputs, axes))
    except Exception:  # a user's module may refuse zeros, or these sizes; then the figure is left out
        log.info("multiplications could not be counted", exc_info=True)
        return None


def multiplications(module: "nn.Module", arguments: "Sequence[Tensor]") -> int:
    """Multiply-accumulates of this call in convolutions and matrix products; raises what the module raises."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*arguments)
    return int(counter.get_total_flops()) // 2


def _inside(model: "onnx.ModelProto") -> Iterator[Any]:
    """Every graph, node, attribute, value and tensor of a model, in its functions and inner graphs too."""
    todo: list[Any] = [model.graph, *model.functions]
    while todo:
        graph = todo.pop()
        if hasattr(graph, "initializer"):
            yield graph
            yield from (*graph.input, *graph.output, *graph.initializer)
        yield from graph.value_info
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                yield attribute
                yield from ([attribute.t] if attribute.HasField("t") else [])
                yield from attribute.tensors
                todo += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def nodes(model: "onnx.ModelProto") -> Iterator["onnx.NodeProto"]:
    """All nodes, those of inner graphs and of functions too."""
    return (part for part in _inside(model) if part.DESCRIPTOR.name == "NodeProto")


def _tensors(model: "onnx.ModelProto") -> Iterator["onnx.TensorProto"]:
    """All weights, wherever they stand."""
    return (part for part in _inside(model) if part.DESCRIPTOR.name == "TensorProto")


def _check_external(path: Path, location: str) -> None:
    pure = PurePosixPath(location.replace("\\", "/"))
    file = path.parent / location
    if not location or pure.is_absolute() or ".." in pure.parts:
        raise InputError(f"{path} names external data at '{location}', outside its own folder; it is refused.")
    if not file.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(f"{path} names external data at '{location}', a link out of its folder; it is refused.")
    if not file.is_file():
        raise InputError(f"{path} needs its external data '{location}' beside it, which is missing.")


def _specs(values: Any, path: Path) -> tuple[TensorSpec, ...]:
    import onnx

    found = []
    for value in values:
        kind = value.type.WhichOneof("value")
        if kind != "tensor_type":
            what = kind.removesuffix("_type") if kind else "value without a type"
            raise InputError(
                f"{path}: '{value.name}' is a {what}; only tensors can be run: let the graph end before it."
            )
        tensor = value.type.tensor_type
        if not tensor.elem_type:
            raise InputError(f"{path}: '{value.name}' has no type.")
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.isbuiltin != 1:  # of a package that gives numpy what it has not
            raise InputError(
                f"{path}: '{value.name}' is of {dtype.name}, which numpy has not: give the model float32 or float16 "
                "inputs and outputs, with a Cast inside."
            )
        shape = tuple(
            dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"{value.name}_{i}"
            for i, dim in enumerate(tensor.shape.dim)
        )
        found.append(TensorSpec(value.name, "str" if dtype.hasobject else dtype.name, shape))
    return tuple(found)
