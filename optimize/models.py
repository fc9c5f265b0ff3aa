"""What steps take and return: a model in torch, or one in an ONNX file on disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from runtime.errors import InputError
from runtime.tensors import Specs, TensorSpec

if TYPE_CHECKING:
    import onnx
    from torch import nn

EXTERNAL_DATA_BYTES = 1_500_000_000  # protobuf ends at 2 GB; weights above this lie in a file beside


@dataclass(frozen=True)
class TorchModel:
    """A module in eval mode and what it takes."""

    module: "nn.Module"
    inputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class OnnxModel:
    """An ONNX file, perhaps with external data beside it in `<name>.data`, and its inputs and outputs."""

    path: Path
    specs: Specs


Axes = Mapping[str, Mapping[str, int]]


def read_onnx(path: Path) -> OnnxModel:
    """Read what an ONNX file takes and gives, having checked that its external data stays in its folder.

    Raises:
        InputError: no such file, not an ONNX model, or external data that is missing or elsewhere.
    """
    import onnx

    if not path.is_file():
        raise InputError(f"no such file: {path} (the ONNX model).")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, and others for truncated files
        raise InputError(f"{path} is not an ONNX model: {error}") from error
    if not model.graph.node or not model.graph.output:
        raise InputError(f"{path} is not an ONNX model: it has no nodes.")
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _check_external(path, {entry.key: entry.value for entry in tensor.external_data}.get("location", ""))
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    return OnnxModel(path, Specs(_specs(inputs, path), _specs(model.graph.output, path)))


def write_onnx(model: "onnx.ModelProto", path: Path) -> OnnxModel:
    """Write a model without what exporters leave in it of the user's machine; weights beside it where it is large."""
    import onnx

    strip(model)
    # counted by the weights: a message over 2 GB cannot be asked for its own size
    large = sum(len(tensor.raw_data) for tensor in _tensors(model.graph)) > EXTERNAL_DATA_BYTES
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
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        _strip_graph(graph)


def _strip_graph(graph: Any) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    for value in (*getattr(graph, "input", ()), *getattr(graph, "output", ()), *graph.value_info):
        if not isinstance(value, str):  # a function's inputs are names
            value.doc_string = ""
            del value.metadata_props[:]
    for node in graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _strip_graph(inner)


def _tensors(graph: Any) -> Any:
    """All weights of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _tensors(inner)


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
            raise InputError(f"{path}: '{value.name}' is a {kind or 'value without a type'}; only tensors can be run.")
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = tuple(
            dim.dim_value if dim.dim_value > 0 else dim.dim_param or f"{value.name}_{i}"
            for i, dim in enumerate(tensor.shape.dim)
        )
        found.append(TensorSpec(value.name, dtype.name, shape))
    return tuple(found)
