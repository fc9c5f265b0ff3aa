"""OpenVINO on the CPU."""

from runtime.host import Host
from targets import Scheme, Target, missing, saturates

_OPS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool",
    "ReduceMean", "Relu", "Clip", "Mul", "Concat",
)  # fmt: skip


def _scheme(cpu: str, host: Host) -> Scheme:
    """Its low-precision transformations take u8 activations and s8 weights; pooling and sums stay in int8."""
    return Scheme(ops=_OPS, blocks="DequantizeLinear", products=False, reduce_range=saturates(cpu, host))


TARGET = Target(
    name="openvino",
    engine="openvino",
    why_not=lambda: missing("openvino", "openvino"),
    scheme=_scheme,
    options={"threads": int, "precision": str, "hint": str, "streams": int, "device": str, "cache": bool},
    plain={"precision": "f32"},
    vendor={},
    limits=lambda cpu: {"isa": {"avx2": "AVX2", "vnni": "AVX512_CORE_VNNI"}[cpu]} if cpu in ("avx2", "vnni") else {},
    bf16=lambda host: {"precision": "bf16"} if {"avx512_bf16", "amx_bf16"} & set(host.instruction_sets) else {},
)
