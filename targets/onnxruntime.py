"""ONNX Runtime on the CPU."""

from collections.abc import Mapping
from typing import Any

from runtime.host import Host
from targets import Scheme, Target, missing, saturates, thread_counts

_OPS = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean",
    "Relu", "Clip", "Concat",
)  # fmt: skip


def _scheme(cpu: str, host: Host) -> Scheme:
    """Its QLinear kernels are fastest, on x86, with u8 activations and s8 weights; biases are int32."""
    return Scheme(ops=_OPS, dynamic=True, blocks="MatMulNBits", products=False, reduce_range=saturates(cpu, host))


def _settings(host: Host, options: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Fewer threads, whose pool small models wait for; threads that sleep between calls."""
    found = {label: {**options, "threads": count} for label, count in thread_counts(host).items()}
    if host.cores > 1:
        found["no-spinning"] = {**options, "spinning": False}
    return found


TARGET = Target(
    name="onnxruntime",
    engine="onnxruntime",
    why_not=lambda: missing("onnxruntime", "onnxruntime"),
    scheme=_scheme,
    options={"threads": int, "spinning": bool, "graph": str, "providers": list, "allow_fallback": bool},
    plain={"spinning": True},
    vendor={},
    settings=_settings,
    trees=True,
    text=True,
)
