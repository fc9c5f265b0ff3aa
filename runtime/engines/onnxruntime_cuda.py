"""ONNX Runtime on an NVIDIA GPU, by its CUDA execution provider: another wheel of the same module. A file is ONNX.

What the provider has no kernel for runs on the CPU, and is counted. A convolution of a size that a session has not seen
yet has its algorithms timed in that call (`search`): for 20 convolutions on an H200 0.2 s, by heuristics 0.03 s.
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.engines import Options, _cuda, check_options, library, onnx_files
from runtime.engines.onnxruntime import CPU, CUDA, OnnxRuntimeSession
from runtime.errors import EngineMissing, InputError
from runtime.fitness import oldest
from runtime.host import Host
from runtime.tensors import Specs

DISTRIBUTION = "onnxruntime-gpu"
TOLERANCE = {"f32": 1e-3, "f16": 2e-2, "int8": 0.3}
LOCAL = frozenset[str]()
FORKABLE = tuple[str, ...]()  # a process that has a GPU open does not bear a fork
OPTIONS: dict[str, type] = {"tf32": bool, "search": str, "allow_fallback": bool}
SEARCHES = ("exhaustive", "heuristic")  # cuDNN's algorithms, timed or guessed


def find() -> Any:
    """The module; raises EngineMissing where it is not there, or is the CPU's, which takes the same place."""
    ort = library("onnxruntime", "onnxruntime_cuda")
    if CUDA not in ort.get_available_providers():
        raise EngineMissing(
            "the onnxruntime that is installed here is the CPU's, and the two exclude each other: "
            "pip uninstall -y onnxruntime && pip install 'edge-optimize[onnxruntime_cuda]'"
        )
    return ort


def facts() -> dict[str, str]:
    """The library's version, and of the GPU what cuda-python says where it is there; raises EngineMissing."""
    return {"version": str(find().__version__), **_cuda.facts()}


def needs(options: Options) -> dict[str, dict[str, Any]]:
    """Its files are ONNX files, which a newer version reads too."""
    return {"version": {"from": oldest(facts()["version"])}}


def open(files: Mapping[str, Path], specs: Specs, host: Host, options: Options) -> OnnxRuntimeSession:
    """Load `files["model"]`; without options as ONNX Runtime ships it, which rounds products to TF32."""
    _check(options)
    ort = find()
    if hasattr(ort, "preload_dlls"):  # CUDA's libraries that pip installed, where the system has none
        ort.preload_dlls()
    provider = {"use_tf32": "0"} if options.get("tf32") is False else {}
    if search := options.get("search"):
        provider["cudnn_conv_algo_search"] = search.upper()
    return OnnxRuntimeSession(
        files["model"], specs, {"allow_fallback": options.get("allow_fallback", False)}, host.cores,
        providers=[(CUDA, provider), (CPU, {})],
    )  # fmt: skip


def compile(onnx: Path, out: Path, options: Options) -> dict[str, Path]:
    """There is nothing to do ahead of time: the file and its external data are copied, and fused when loaded."""
    _check(options)
    return {role: Path(shutil.copyfile(part, out / part.name)) for role, part in onnx_files(onnx).items()}


def _check(options: Options) -> None:
    check_options("onnxruntime_cuda", options, OPTIONS)
    if options.get("search") not in (None, *SEARCHES):
        raise InputError(
            f"option 'search' of onnxruntime_cuda is {options['search']!r}; it takes {', '.join(SEARCHES)}."
        )
