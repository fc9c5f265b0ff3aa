"""ONNX Runtime on the CPU."""

from runtime.host import Host
from targets import Scheme, Target, missing, saturates

_OPS = (
    "Conv", "Gemm", "MatMul", "Add", "Mul", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean",
    "Relu", "Clip", "Concat",
)  # fmt: skip


def _scheme(cpu: str, host: Host) -> Scheme:
    """Its QLinear kernels are fastest, on x86, with u8 activations and s8 weights; biases are int32."""
    return Scheme(ops=_OPS, dynamic=True, blocks="MatMulNBits", products=False, reduce_range=saturates(cpu, host))


TARGET = Target(
    name="onnxruntime",
    engine="onnxruntime",
    why_not=lambda: missing("onnxruntime", "onnxruntime"),
    scheme=_scheme,
    options={"threads": int, "spinning": bool, "graph": str, "providers": list, "allow_fallback": bool},
    plain={"spinning": True},
    vendor={},
    trees=True,
    text=True,
)
