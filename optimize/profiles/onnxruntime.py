"""ONNX Runtime's profile: its trace of every kernel of every call."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimize.profiles import DROPPED, Kind, Layer
from runtime.engines import library
from runtime.engines.onnxruntime import settings
from runtime.errors import EngineError
from runtime.host import cores
from runtime.tensors import Array

_CONVERTS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"}
_MOVES = {
    "ReorderInput", "ReorderOutput", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Slice",
    "Split", "Gather", "Pad", "Identity", "Expand", "Shape",
}  # fmt: skip
_FORMATS = {"float": "f32", "float16": "f16", "bfloat16": "bf16", "uint8": "int8", "int8": "int8"}


def profile(
    files: Mapping[str, Path], options: Mapping[str, Any], feeds: Mapping[str, Array], calls: int
) -> list[Layer]:
    """The kernels of one call, each with its mean time."""
    runs: dict[str, list[float]] = defaultdict(list)
    seen: dict[str, Any] = {}
    for name, ms, told in kernels(files["model"], options, feeds, DROPPED + calls):
        runs[name].append(ms)
        seen.setdefault(name, told)
    return [_layer(name, seen[name], times[DROPPED:]) for name, times in runs.items()]


def kernels(
    path: Path, options: Mapping[str, Any], feeds: Mapping[str, Array], calls: int
) -> list[tuple[str, float, Mapping[str, Any]]]:
    """Of each kernel of each call the node's name, the milliseconds, and what else ONNX Runtime tells (op, shapes).

    Raises:
        EngineError: it does not run the file.
    """
    ort = library("onnxruntime", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        asked = settings(ort, options, cores())
        asked.enable_profiling = True
        asked.profile_file_prefix = str(Path(folder) / "trace")
        try:
            session = ort.InferenceSession(str(path), asked, providers=["CPUExecutionProvider"])
            for _ in range(calls):
                session.run(None, dict(feeds))
        except Exception as error:  # its own exceptions share no base but Exception
            raise EngineError(f"ONNX Runtime does not run {path.name}: {error}") from error
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [
        (event["name"].removesuffix("_kernel_time"), event["dur"] / 1e3, event["args"])
        for event in events
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time")
    ]


def _layer(name: str, told: Mapping[str, Any], times: list[float]) -> Layer:
    op = str(told.get("op_name", ""))
    shapes = told.get("output_type_shape") or [{}]
    format_ = _FORMATS.get(next(iter(shapes[0]), ""), "f32")
    quantized = op.startswith(("QLinear", "QGemm", "DynamicQuantizeM", "NhwcMaxPool")) or "Integer" in op
    kind: Kind = "convert" if op in _CONVERTS else "move" if op in _MOVES else "compute"
    # a trace may be cut off in the last call; a node that never ran after the first calls took no time
    mean = sum(times) / len(times) if times else 0.0
    return Layer(name or op, op, mean, "int8" if quantized else format_, kind, kernel=str(told.get("provider", "")))
