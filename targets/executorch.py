"""ExecuTorch on the CPU of phones, by XNNPACK."""

from runtime.host import Host
from targets import Scheme, Target, missing
from targets.tensorrt import profiles


def _scheme(cpu: str, host: Host) -> Scheme:
    """XNNPACK's qs8: s8 activations about any zero, s8 weights about 0 with a scale a channel, biases in float."""
    return Scheme(
        ops=("Conv", "Gemm", "MatMul", "Add", "Mul", "GlobalAveragePool", "ReduceMean", "Relu", "Clip", "Concat"),
        activation="int8",
        quantize_bias=False,
        products=False,
    )


TARGET = Target(
    name="executorch",
    engine="executorch",
    why_not=lambda: missing("executorch.exir", "executorch"),
    scheme=_scheme,
    options={"threads": int},
    plain={},
    vendor={},
    profiles=profiles,
)
