"""ONNX's own evaluator: slow, on every machine that has numpy, and the measure of what is right."""

from runtime.host import Host
from targets import Scheme, Target, missing


def _scheme(cpu: str, host: Host) -> Scheme:
    """It computes Q/DQ as it is written, so any scheme does; this is the most common one."""
    return Scheme(ops=("Conv", "Gemm", "MatMul", "Add"), quantize_outputs=False, blocks="DequantizeLinear", bf16=True)


TARGET = Target(
    name="reference",
    engine="reference",
    why_not=lambda: missing("onnx", "optimize"),
    scheme=_scheme,
    options={},
    plain={},
    vendor={},
    trees=True,
    text=True,
)
