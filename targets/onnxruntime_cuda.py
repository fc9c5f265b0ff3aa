"""ONNX Runtime on NVIDIA GPUs, by CUDA. It fuses no int8, and is for where TensorRT is not: fp32 and fp16."""

from runtime.engines import onnxruntime_cuda
from runtime.errors import EngineMissing
from runtime.host import Host, facts
from targets import Scheme, Target


def _scheme(cpu: str, host: Host) -> Scheme:
    """Q/DQ runs as it is written; what multiplies is all that could be gained from."""
    return Scheme(
        ops=("Conv", "Gemm", "MatMul", "Add"), activation="int8", activation_symmetric=True, quantize_outputs=False,
        quantize_bias=False, fused=False, blocks="MatMulNBits",
    )  # fmt: skip


def _why_not() -> str | None:
    try:
        onnxruntime_cuda.find()
    except EngineMissing as error:
        return str(error)
    return None if facts().gpus else "ONNX Runtime's CUDA provider needs a GPU, and none is here: run on the device"


TARGET = Target(
    name="onnxruntime_cuda",
    engine="onnxruntime_cuda",
    why_not=_why_not,
    scheme=_scheme,
    options=onnxruntime_cuda.OPTIONS,
    plain={"tf32": False},
    vendor={},
    half={"tf32": True},  # without it no tensor core is used, not for fp16 either: 1.7 times the time on an H200
)
