"""TensorRT on NVIDIA GPUs. It takes precision from the graph alone: Q/DQ and casts, no calibrator, no flags."""

from collections.abc import Mapping
from typing import Any

from runtime.engines import _cuda, _tensorrt_vendor
from runtime.errors import EngineMissing
from runtime.host import Host, facts
from runtime.tensors import Specs
from targets import Scheme, Target, missing

# option of the engine, limit of the axis, and what is taken where the recipe says nothing of it
_LIMITS = (("min", "min", 1), ("opt", "best", 1), ("max", "max", 16))


def profiles(specs: Specs, axes: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The engine's option `profiles` for a recipe's axes: name to `min`, `best`, `max`."""
    return {
        spec.name: {
            option: [one if isinstance(one, int) else axes.get(one, {}).get(limit, default) for one in spec.shape]
            for option, limit, default in _LIMITS
        }
        for spec in specs.inputs
        if any(isinstance(length, str) for length in spec.shape)
    }


def _scheme(cpu: str, host: Host) -> Scheme:
    """Symmetric s8 throughout, biases in float (its parser refuses an int32 DequantizeLinear)."""
    return Scheme(
        ops=("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "AveragePool", "GlobalAveragePool", "ReduceMean"),
        activation="int8",
        activation_symmetric=True,
        quantize_outputs=False,
        quantize_bias=False,
        blocks="DequantizeLinear",
        bf16=True,
    )


def _why_not() -> str | None:
    try:
        _tensorrt_vendor.find()
    except EngineMissing as error:
        return str(error)
    if not facts().gpus and not _cuda.devices():  # Jetsons have no nvidia-smi before JetPack 6
        return "TensorRT builds for the GPU it runs on, and none is here: run on the device, or see nvidia-smi"
    return missing("cuda.bindings.runtime", "tensorrt")


TARGET = Target(
    name="tensorrt",
    engine="tensorrt",
    why_not=_why_not,
    scheme=_scheme,
    options={
        "sparsity": bool, "tf32": bool, "hardware_compatible": bool, "version_compatible": bool,
        "timing_cache": str, "cuda_graph": bool,
    },
    plain={"tf32": False},
    vendor={},
    profiles=profiles,
    half={},
    unproven="its plans are built in tests by the real parser and builder, but none was ever run on a GPU",
)  # fmt: skip
