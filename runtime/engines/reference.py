"""ONNX's own evaluator, in numpy: slow, everywhere the same, the living definition of what an ONNX file means."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from runtime.engines import Options, check_options, check_specs, filled, library, onnx_files
from runtime.errors import EngineError
from runtime.host import Host
from runtime.tensors import Array, Specs

DISTRIBUTION = "onnx"
TOLERANCE = {"f32": 1e-3, "f16": 2e-2, "bf16": 0.3, "int8": 0.3}
LOCAL = frozenset[str]()
FORKABLE = ("onnx.reference",)
OPTIONS: dict[str, type] = {}
# ops that it computes as from this opset on, or has from there on only
SINCE = {"DequantizeLinear": 19, "Softmax": 13, "LogSoftmax": 13, "Hardmax": 13}


class ReferenceSession:
    """A `ReferenceEvaluator`, one call at a time."""

    threads = 1

    def __init__(self, path: Path, specs: Specs) -> None:
        library("onnx", "optimize")
        from onnx.reference import ReferenceEvaluator

        self._lock = Lock()
        try:
            self._evaluator: Any = ReferenceEvaluator(_raised(path))
        except Exception as error:  # it raises whatever the first line that does not fit raises
            raise EngineError(f"onnx's evaluator cannot load {path.name}: {error}") from error
        graph = self._evaluator.proto_.graph
        weights = {tensor.name for tensor in graph.initializer}
        inputs = {value.name: _dtype(value) for value in graph.input if value.name not in weights}
        outputs = {value.name: _dtype(value) for value in graph.output}
        check_specs("ONNX", specs, inputs, outputs)
        self._outputs = list(outputs)

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        try:
            # its text is objects throughout
            given = {name: value.astype(object) if value.dtype.kind == "U" else value for name, value in feeds.items()}
            with self._lock:
                results = dict(zip(self._outputs, self._evaluator.run(None, given), strict=True))
        except Exception as error:
            raise EngineError(f"onnx's evaluator failed: {error}") from error
        return filled(out, results)

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Its run, without ours around it."""
        return lambda: self._evaluator.run(None, dict(feeds))

    def precision(self) -> dict[str, int]:
        """It computes each node as the file says."""
        return {"as the file says": len(self._evaluator.proto_.graph.node)}

    def close(self) -> None:
        """Drop the model."""
        self._evaluator = None


def facts() -> dict[str, str]:
    """The library's version; raises EngineMissing."""
    return {"version": str(library("onnx", "optimize").__version__)}


def needs(options: Options) -> dict[str, dict[str, Any]]:
    """Its files are ONNX files as they are."""
    return {}


def open(files: Mapping[str, Path], specs: Specs, host: Host, options: Options) -> ReferenceSession:
    """Load `files["model"]`, an ONNX file."""
    check_options("reference", options, OPTIONS)
    return ReferenceSession(files["model"], specs)


def compile(onnx: Path, out: Path, options: Options) -> dict[str, Path]:
    """There is nothing to compile: the file and its external data are copied."""
    check_options("reference", options, OPTIONS)
    return {role: Path(shutil.copyfile(part, out / part.name)) for role, part in onnx_files(onnx).items()}


def _raised(path: Path) -> Any:
    """The file; where its opset is older than what the evaluator has of its ops, the model in a newer one."""
    import onnx
    from onnx import version_converter

    proto = onnx.load(path, load_external_data=False)
    opset = max((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), default=0)
    least = max((SINCE.get(node.op_type, 0) for node in proto.graph.node), default=0)
    if opset >= least:
        return str(path)
    whole = onnx.load(path)
    whole.ir_version = max(whole.ir_version, 4)  # before it, a weight had to be an input too
    return version_converter.convert_version(whole, least)


def _dtype(value: Any) -> str | None:
    """The numpy name of a value's element type; None where the file does not say."""
    from onnx.helper import tensor_dtype_to_np_dtype

    kind = value.type.tensor_type.elem_type
    dtype = tensor_dtype_to_np_dtype(kind) if kind else None
    return "str" if dtype is not None and dtype.hasobject else dtype and str(dtype.name)
