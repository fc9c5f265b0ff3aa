"""ExecuTorch on the CPU of phones, by XNNPACK."""

import importlib.util

from runtime.host import Host
from targets import Scheme, Target
from targets.tensorrt import profiles


def _scheme(cpu: str, host: Host) -> Scheme:
    """XNNPACK's qs8: s8 activations about any zero, s8 weights about 0 with a scale a channel, biases in float."""
    return Scheme(
        ops=("Conv", "Gemm", "MatMul", "Add", "Mul", "GlobalAveragePool", "ReduceMean", "Relu", "Clip", "Concat"),
        activation="int8",
        quantize_bias=False,
        products=False,
    )


def _why_not() -> str | None:
    """Whether its parts are there is looked at, not tried: importing them takes seconds."""
    for name in ("executorch", "torch", "onnx"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: pip install 'edge-optimize[executorch]'"
    return None


TARGET = Target(
    name="executorch",
    engine="executorch",
    why_not=_why_not,
    scheme=_scheme,
    options={"threads": int},
    plain={},
    vendor={},
    profiles=profiles,
)
