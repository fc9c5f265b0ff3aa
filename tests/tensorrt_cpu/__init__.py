"""TensorRT's Python API with a real builder and ONNX parser, on a machine that has no GPU.

The bindings are TensorRT's, the libraries behind them those of TensorRT for RTX, which compile ahead of time. So the
compile half of the engine is tested for real. What is built is a plan for RTX, and none can be run here: opening one
asks for a CUDA driver. Do not touch `ITensor`'s methods beyond name, dtype and shape: the two libraries lay them out
differently (`get_dimension_name` ends in a bus error).
"""

import ctypes
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

NEEDS = "pip install 'edge-optimize[tensorrt-test]'"
SHIM = Path(__file__).parent / "shim.c"
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")


def lacking() -> str | None:
    """Why it cannot be done here; None where it can."""
    if any(importlib.util.find_spec(name) is None for name in ("tensorrt_bindings", "onnxruntime_ep_nv_tensorrt_rtx")):
        return NEEDS
    return None if shutil.which("cc") else "no C compiler: apt install gcc"


@cache
def enable() -> ModuleType:
    """TensorRT's module. Who wants it importable as `tensorrt` puts it into `sys.modules`, and takes it out again."""
    found = importlib.util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")  # not imported: that asks for a driver
    assert found is not None and found.origin is not None, NEEDS
    folder = Path(found.origin).parent
    os.environ["RTX_BUILDER"] = str(next(folder.glob("libtensorrt_rtx.so.*.*")))
    os.environ["RTX_PARSER"] = str(next(folder.glob("libtensorrt_onnxparser_rtx.so.*.*")))
    return _load("tensorrt_bindings", 11)


def load_to_look_at(folder: Path, major: int) -> ModuleType:
    """The bindings that lie in a folder, with empty libraries behind them: to ask which attributes they have."""
    sys.path.insert(0, str(folder))
    return _load("tensorrt_bindings", major)


def _load(module: str, major: int) -> ModuleType:
    with tempfile.TemporaryDirectory() as folder:
        for name in LIBRARIES:
            library = Path(folder) / f"{name}.so.{major}"
            # each has all functions, and the loader takes the first that it finds
            command = ["cc", "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl", f"-Wl,-soname,{library.name}"]
            subprocess.run(command, check=True)
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        return importlib.import_module(module)
