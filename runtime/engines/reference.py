"""ONNX's own evaluator, in numpy: slow, everywhere the same, the living definition of what an ONNX file means."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

from runtime.engines import Options, check_names, check_options, library, onnx_files
from runtime.errors import EngineError
from runtime.host import Host
from runtime.tensors import Array, Specs

DISTRIBUTION = "onnx"
TOLERANCE = {"f32": 1e-3, "f16": 2e-2, "int8": 0.3}
OPTIONS: dict[str, type] = {}


class ReferenceSession:
    """A `ReferenceEvaluator`, one call at a time."""

    threads = 1

    def __init__(self, path: Path, specs: Specs) -> None:
        library("onnx", "optimize")
        from onnx.reference import ReferenceEvaluator

        self._lock = Lock()
        try:
            self._evaluator: Any = ReferenceEvaluator(str(path))
        except Exception as error:  # it raises whatever the first line that does not fit raises
            raise EngineError(f"onnx's evaluator cannot load {path.name}: {error}") from error
        self._outputs = list(self._evaluator.output_names)
        weights = {tensor.name for tensor in self._evaluator.proto_.graph.initializer}
        inputs = [name for name in self._evaluator.input_names if name not in weights]
        check_names("onnx", specs, inputs, self._outputs)

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        try:
            with self._lock:
                results = dict(zip(self._outputs, self._evaluator.run(None, dict(feeds)), strict=True))
        except Exception as error:
            raise EngineError(f"onnx's evaluator failed: {error}") from error
        for name in out or ():
            out[name][...] = results[name]  # type: ignore[index]  # `out` is not None here
        return results

    def precision(self) -> dict[str, int]:
        """It computes each node as the file says."""
        return {"as the file says": len(self._evaluator.proto_.graph.node)}

    def close(self) -> None:
        """Drop the model."""
        self._evaluator = None


def open(files: Mapping[str, Path], specs: Specs, host: Host, options: Options) -> ReferenceSession:
    """Load `files["model"]`, an ONNX file."""
    check_options("reference", options, OPTIONS)
    return ReferenceSession(files["model"], specs)


def compile(onnx: Path, out: Path, options: Options) -> dict[str, Path]:
    """There is nothing to compile: the file and its external data are copied."""
    check_options("reference", options, OPTIONS)
    return {role: Path(shutil.copyfile(part, out / part.name)) for role, part in onnx_files(onnx).items()}
