"""What needs TensorFlow in the process: reading a model, and its conversion by tf2onnx, which a worker calls."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from runtime import engines, host
from runtime.engines import library, relative_error
from runtime.errors import InputError

SAVED = "saved_model.pb"
OPSET = 18
FLOAT, ROUNDED = 1e-3, 0.1  # the largest relative error against the original, of random numbers
# what a graph can do to the machine it runs on
DANGEROUS = {
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "ReadFile",
    "WriteFile",
    "MatchingFiles",
    "DeleteOldCheckpoints",
}
EXTRA = "tensorflow"


def imported() -> Any:
    """TensorFlow, which prints no warnings of its own."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return library("tensorflow", EXTRA)


def plain(name: str) -> str:
    """A tensor's name without what TensorFlow puts around it: `serving_default_x:0` is x."""
    return name.partition(":")[0].removeprefix("serving_default_")


def signature(path: Path) -> Any:
    """What a SavedModel offers to be called: `serving_default`, or its only one.

    Raises:
        InputError: it cannot be read, or has none or several others.
    """
    tf = imported()
    try:
        loaded = tf.saved_model.load(str(path))
    except Exception as error:  # of protobuf, of files that are missing, of variables that do not fit
        words = " ".join(str(error).split())[:300]
        raise InputError(f"{path} cannot be read by TensorFlow {tf.__version__}: {words}") from error
    known = dict(loaded.signatures)
    name = "serving_default" if "serving_default" in known or len(known) != 1 else next(iter(known))
    if name not in known:
        raise InputError(f"{path} has the signatures {', '.join(known) or 'none'}; one of them must be {name}.")
    call = known[name]
    call.kept = loaded  # else its variables are gone with it
    return call


def arguments(call: Any) -> list[str]:
    """The names of a signature's inputs, in their order."""
    return sorted(call.structured_input_signature[1])


def interpreter(path: Path, threads: int | None = None) -> Any:
    """TensorFlow Lite's interpreter of a file; raises InputError where it is none."""
    import warnings

    tf = imported()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that it is to have another name
            return tf.lite.Interpreter(str(path), num_threads=threads)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{path} is no .tflite file, or not all of it is here: {error}") from error


def lite_names(lite: Any) -> tuple[list[str], list[str]]:
    """Of an interpreter's inputs and outputs, in their order: its signature's where it has one, else its tensors'."""
    known: dict[int, str] = {}
    if len(lite.get_signature_list()) == 1:
        call = lite.get_signature_runner()
        for details in (call.get_input_details(), call.get_output_details()):
            known |= {each["index"]: name for name, each in details.items()}
    given, found = (
        [known.get(each["index"]) or plain(each["name"]) for each in details]
        for details in (lite.get_input_details(), lite.get_output_details())
    )
    return given, found


def convert(place: str, out: str, trust: bool) -> list[str]:
    """Write a model as an ONNX file, seen to answer as the model does; returns what a reader should know.

    Raises:
        InputError: it cannot be read, has an op that is not to be trusted or that tf2onnx has not, or its file answers
            otherwise.
    """
    from optimize.flags import random_feeds
    from optimize.models import write_onnx
    from optimize.sources.tensorflow import LiteSession, SavedSession

    path = Path(place)
    tf, tf2onnx = imported(), library("tf2onnx", EXTRA)
    if path.is_file():
        names = lite_names(interpreter(path))
        proto, _ = _tried(place, tf2onnx.convert.from_tflite, place, opset=OPSET)
    else:
        if not trust:
            _refuse_dangerous(path)
        call = signature(path)
        given, keys = arguments(call), sorted(call.structured_outputs)
        names = given, [plain(key) for key in keys]
        function = tf.function(lambda *arrays: [call(**dict(zip(given, arrays, strict=True)))[key] for key in keys])
        specs = [call.structured_input_signature[1][name] for name in given]
        proto, _ = _tried(place, tf2onnx.convert.from_function, function, specs, opset=OPSET)
    _real_outputs(proto)
    _rename(proto, *names)
    model = write_onnx(proto, Path(out))
    feeds = random_feeds(model.specs.inputs, 2)
    session = engines.get("onnxruntime").open({"model": model.path}, model.specs, host.facts(), {"fuse": False})
    original = (LiteSession if path.is_file() else SavedSession)(path, None)
    error, name = relative_error(session.run(feeds), original.run(feeds))
    rounded = Counter(node.op_type for node in proto.graph.node)["QuantizeLinear"]
    if not error <= (ROUNDED if rounded else FLOAT):
        raise InputError(f"{place}: tf2onnx's file answers otherwise, in '{name}' by {error:.2g} (relative).")
    notes = [
        f"converted by tf2onnx {tf2onnx.__version__}, opset {OPSET}; the original runs in TensorFlow {tf.__version__}"
    ]
    if rounded:
        notes.append(
            f"the model is quantized already, and its {rounded} QuantizeLinear come along: its file answers within "
            f"{error:.1g} (relative) of the original on random numbers; its outputs are given as real numbers"
        )
    return notes


def _tried(place: str, convert: Any, *args: Any, **more: Any) -> Any:
    try:
        proto, kept = convert(*args, **more)
    except Exception as error:  # whatever the first op that it has not brings up
        words = " ".join(str(error).split())[:400] or type(error).__name__
        raise InputError(f"tf2onnx cannot convert {place}: {words}") from error
    # it goes on over what it does not know, and leaves the op of TensorFlow's in the file
    foreign = {node.op_type for node in proto.graph.node if node.domain not in ("", "ai.onnx")} | _unknown(proto)
    if foreign:
        raise InputError(f"tf2onnx cannot convert {place}: it has no op for {', '.join(sorted(foreign))}.")
    return proto, kept


def _unknown(proto: Any) -> set[str]:
    """Ops that ONNX has not."""
    from onnx import defs

    return {node.op_type for node in proto.graph.node if not node.domain and not defs.has(node.op_type)}


def _rename(proto: Any, inputs: list[str], outputs: list[str]) -> None:
    """The model's own names for inputs and outputs, which are in order, and `batch` for a first axis that is open."""
    graph = proto.graph
    renamed = {value.name: name for value, name in zip(graph.input, inputs, strict=True)}
    renamed |= {value.name: name for value, name in zip(graph.output, outputs, strict=True)}
    taken = set(renamed.values()) - set(renamed)
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, f"{name}_inside" if name in taken else name) for name in names]
    for value in (*graph.input, *graph.output):
        value.name = renamed[value.name]
    for value in (*graph.input, *graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.dim_value:
                dim.dim_param = f"{value.name}_{axis}" if axis else "batch"


def _real_outputs(proto: Any) -> None:
    """Rounded outputs as the real numbers that they stand for: whole ones are numbers of classes here."""
    from onnx import TensorProto, helper

    makers = {node.output[0]: node for node in proto.graph.node}
    for value in proto.graph.output:
        maker = makers.get(value.name)
        if maker is not None and maker.op_type == "QuantizeLinear":
            real = f"{value.name}_real"
            proto.graph.node.append(helper.make_node("DequantizeLinear", [value.name, *maker.input[1:]], [real]))
            value.name, value.type.tensor_type.elem_type = real, TensorProto.FLOAT


def _refuse_dangerous(path: Path) -> None:
    """Raise InputError where a SavedModel's graph has ops that run Python or touch files."""
    saved = library("tensorflow.core.protobuf.saved_model_pb2", EXTRA).SavedModel()
    try:
        saved.ParseFromString((path / SAVED).read_bytes())
    except Exception as error:  # protobuf's DecodeError
        raise InputError(f"{path / SAVED} cannot be read, or not all of it is here: {error}") from error
    found = {
        node.op
        for graph in saved.meta_graphs
        for nodes in (graph.graph_def.node, *(function.node_def for function in graph.graph_def.library.function))
        for node in nodes
    }
    if bad := sorted(found & DANGEROUS):
        raise InputError(
            f"{path} has {', '.join(bad)}, which run code or touch files: --trust where you know whose it is."
        )
