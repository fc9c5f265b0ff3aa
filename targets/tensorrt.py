"""TensorRT on NVIDIA GPUs. It takes precision from the graph alone: Q/DQ and casts, no calibrator, no flags."""

from runtime.host import Host, facts
from targets import Scheme, Target, missing


def _scheme(cpu: str, host: Host) -> Scheme:
    """Symmetric s8 throughout, biases in float (its parser refuses an int32 DequantizeLinear)."""
    return Scheme(
        ops=("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "AveragePool", "GlobalAveragePool", "ReduceMean"),
        activation="int8",
        activation_symmetric=True,
        quantize_outputs=False,
        quantize_bias=False,
    )


def _why_not() -> str | None:
    lacking = missing("tensorrt", "tensorrt")
    if lacking:
        return lacking
    if not facts().gpus:
        return "TensorRT builds for the GPU it runs on, and none is here: run on the device, or see nvidia-smi"
    return "this version of edge-optimize does not compile TensorRT engines yet: pip install --upgrade edge-optimize"


TARGET = Target(
    name="tensorrt",
    engine="tensorrt",
    why_not=_why_not,
    scheme=_scheme,
    options={},
    plain={},
    vendor={},
)
