"""OpenVINO on the CPU."""

from collections.abc import Mapping
from typing import Any

from runtime.host import Host
from targets import Scheme, Target, missing, saturates, thread_counts

_OPS = (
    "Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool",
    "ReduceMean", "Relu", "Clip", "Mul", "Concat",
)  # fmt: skip


def _scheme(cpu: str, host: Host) -> Scheme:
    """Its low-precision transformations take u8 activations and s8 weights; pooling and sums stay in int8."""
    return Scheme(ops=_OPS, blocks="DequantizeLinear", products=False, reduce_range=saturates(cpu, host))


def _bf16(host: Host) -> dict[str, Any]:
    return {"precision": "bf16"} if {"avx512_bf16", "amx_bf16"} & set(host.instruction_sets) else {}


def _settings(host: Host, options: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Fewer threads, whose pool small models wait for; and compiled for the sizes that are called."""
    known = {"precision": "f32", **_bf16(host), **options}  # without options it computes in bf16 where it can
    threads: dict[str, dict[str, Any]] = {"": {}, **{label: {"threads": n} for label, n in thread_counts(host).items()}}
    fixed: dict[str, dict[str, Any]] = {"": {}, **({"fixed": {"fixed": dict(sizes)}} if sizes else {})}
    return {
        "-".join(filter(None, (count, size))): {**known, **threads[count], **fixed[size]}
        for count in threads
        for size in fixed
        if count or size
    }


TARGET = Target(
    name="openvino",
    engine="openvino",
    why_not=lambda: missing("openvino", "openvino"),
    scheme=_scheme,
    options={
        "threads": int,
        "precision": str,
        "hint": str,
        "streams": int,
        "device": str,
        "cache": bool,
        "fixed": dict,
    },
    plain={"precision": "f32"},
    vendor={},
    limits=lambda cpu: {"isa": {"avx2": "AVX2", "vnni": "AVX512_CORE_VNNI"}[cpu]} if cpu in ("avx2", "vnni") else {},
    bf16=_bf16,
    settings=_settings,
)
