"""What this machine reaches at best, by an engine's own kernels, and what share of it a model reaches.

The yardstick of arithmetic is one large matrix product, that of memory is numpy's copy; both are measured, neither is
read from a data sheet (the roofline of Williams et al. 2009, doi:10.1145/1498765.1498785, with measured ceilings).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from runtime import engines
from runtime.engines import onnx_files
from runtime.errors import Error
from runtime.host import facts
from runtime.tensors import Specs, TensorSpec

SIDE = 1024  # of the matrices
SECONDS, CALLS, DROPPED = 0.25, 5, 2
COPY_BYTES = 2**28  # beyond every cache
# what computes in a format: the dtype of the product's inputs, and the engine's options
WAYS: Mapping[str, Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "onnxruntime": {"f32": ("float32", {}), "int8": ("uint8", {})},
    "openvino": {
        "f32": ("float32", {"precision": "f32"}),
        "bf16": ("float32", {"precision": "bf16"}),
        "int8": ("int8", {"precision": "f32"}),
    },
}


def peaks(engine: str, threads: int) -> dict[str, float]:
    """For a worker's `call`: billions of operations a second by number format, and `copy`, billions of bytes.

    A multiplication and its addition are two operations; a byte copied is one read and one written. A format that does
    not truly run here is left out. Empty for an engine that computes elsewhere than on the processor.
    """
    found: dict[str, float] = {}
    if engine not in WAYS:
        return found
    specs = Specs((TensorSpec("x", "float32", (SIDE, SIDE)),), (TensorSpec("y", "float32", (SIDE, SIDE)),))
    x = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    for format_, (dtype, options) in WAYS[engine].items():
        try:
            with TemporaryDirectory() as folder:
                file = _product(Path(folder) / "product.onnx", dtype)
                session = engines.get(engine).open({"model": file}, specs, facts(), {**options, "threads": threads})
                if format_ in session.precision():
                    found[format_] = 2 * SIDE**3 / _fastest(session.inside({"x": x})) / 1e9
                session.close()
        except Error:
            continue
    source = np.ones(COPY_BYTES // 8)
    sink = np.empty_like(source)
    found["copy"] = 2 * COPY_BYTES / _fastest(lambda: np.copyto(sink, source)) / 1e9
    return found


def work(onnx: str, feeds: str, names: Sequence[str]) -> dict[str, int]:
    """For a worker's `call`: `operations` of one call, and the `bytes` that it moves at least, whatever the engine.

    Matrix products and convolutions are counted, at the shapes that ONNX Runtime sees with these arrays (an .npz file,
    in the order of the names); bytes are those of the file, which holds the weights, and of the inputs.

    Raises:
        EngineError: ONNX Runtime does not run the file.
    """
    from optimize.profiles.onnxruntime import kernels

    with np.load(feeds) as stored:
        arrays = {name: stored[key] for name, key in zip(names, stored.files, strict=True)}
    operations = 0
    for _, _, told in kernels(Path(onnx), {"fuse": False}, arrays, 1):
        ins, outs = (
            [list(next(iter(one.values()), ())) for one in told.get(key) or ()]
            for key in ("input_type_shape", "output_type_shape")
        )
        operations += 2 * multiplications(str(told.get("op_name")), ins, outs)
    files = sum(part.stat().st_size for part in onnx_files(Path(onnx)).values())
    return {"operations": operations, "bytes": files + sum(value.nbytes for value in arrays.values())}


def multiplications(op: str, inputs: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> int:
    """Of one ONNX node, from its shapes; 0 for what is neither a matrix product nor a convolution."""
    size = np.prod([*outputs[0]], dtype=np.int64) if outputs else 0
    if op == "Conv":
        return int(size * np.prod(inputs[1][1:], dtype=np.int64))
    if op == "ConvTranspose":
        return int(np.prod([*inputs[0], *inputs[1][1:]], dtype=np.int64))
    if op == "MatMul":
        return int(size * inputs[0][-1])
    if op == "Gemm":  # either input may be transposed: the length that is summed over is what the output lacks
        return int(size * (np.prod(inputs[0], dtype=np.int64) // max(1, outputs[0][0])))
    return 0


def _product(path: Path, dtype: str) -> Path:
    """A product of an input with a constant matrix; where it is quantized, by Q/DQ pairs."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    given: dict[str, Any] = {}
    if dtype == "float32":
        given["w"] = random.standard_normal((SIDE, SIDE), np.float32)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    else:
        given["w_q"] = random.integers(-127, 128, (SIDE, SIDE), np.int8)
        given["zero_w"] = np.array(0, np.int8)
        given["zero"] = np.array(128 if dtype == "uint8" else 0, dtype)
        given |= {"s": np.array(0.03, np.float32), "s_w": np.array(0.01, np.float32), "s_y": np.array(0.6, np.float32)}
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["x_q"]),
            helper.make_node("DequantizeLinear", ["x_q", "s", "zero"], ["x_d"]),
            helper.make_node("DequantizeLinear", ["w_q", "s_w", "zero_w"], ["w_d"]),
            helper.make_node("MatMul", ["x_d", "w_d"], ["p"]),
            helper.make_node("QuantizeLinear", ["p", "s_y", "zero"], ["p_q"]),
            helper.make_node("DequantizeLinear", ["p_q", "s_y", "zero"], ["y"]),
        ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (SIDE, SIDE)) for name in "xy")
    weights = [numpy_helper.from_array(value, name) for name, value in given.items()]
    graph = helper.make_graph(nodes, "product", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls."""
    for _ in range(DROPPED):
        call()
    best, calls, end = float("inf"), 0, time.perf_counter() + SECONDS
    while calls < CALLS or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        best, calls = min(best, time.perf_counter() - begun), calls + 1
    return best
