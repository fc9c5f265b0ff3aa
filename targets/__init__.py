"""One file a target, each ending in one `TARGET = Target(...)`; look-up lists this folder.

A target says what its engine's kernels fuse (`scheme`), how it is run plainly and as its vendor ships it, and
whether it can be compiled for here. The compiling itself stands in `runtime/engines`, beside the running.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from runtime import engines, listing
from runtime.errors import EngineMissing, InputError
from runtime.host import Host
from runtime.tensors import Specs

CPUS = ("host", "avx2", "vnni", "arm")


@dataclass(frozen=True)
class Scheme:
    """How a model must be quantized so that a target's kernels fuse it.

    Attributes:
        activation: dtype of activations.
        weight: dtype of weights.
        activation_symmetric: zero point 0 for activations.
        weight_symmetric: zero point 0 for weights.
        per_channel: one scale a channel of a weight.
        quantize_outputs: what an op gives is quantized too, not only what the next quantized op takes. Without it no
            Q/DQ comes between a convolution and the activation that is fused into it.
        quantize_bias: int32 biases behind a DequantizeLinear; else they stay in float.
        blocks: the op that holds weights in blocks with a scale each; empty where kernels have none.
        fused: what stands between Q and DQ is computed in int8. Else it is computed in float, and nothing is won.
        dynamic: kernels that round activations in the call, by their own range, run.
        products: products of two activations, attention's, are quantized too. On a CPU rounding both costs what is won.
        bf16: it computes in bf16 where the graph is in bf16.
        reduce_range: weights in 7 bits, where products are summed in 16 bits and would saturate.
        ops: the ONNX ops whose inputs are quantized. What only moves numbers (Pad, Slice) is left out: it gains
            nothing, and a padded zero is not the zero of an asymmetric scale.
    """

    ops: tuple[str, ...]
    activation: Literal["uint8", "int8"] = "uint8"
    weight: Literal["uint8", "int8"] = "int8"
    activation_symmetric: bool = False
    weight_symmetric: bool = True
    per_channel: bool = True
    quantize_outputs: bool = True
    quantize_bias: bool = True
    reduce_range: bool = False
    fused: bool = True
    dynamic: bool = False
    products: bool = True
    bf16: bool = False
    blocks: Literal["", "MatMulNBits", "DequantizeLinear"] = ""


@dataclass(frozen=True)
class Target:
    """A place to deploy to.

    Attributes:
        engine: its file in `runtime/engines`.
        why_not: None where it can be compiled for here, else one sentence with the command that mends it.
        scheme: for one of `CPUS`.
        options: what a recipe may set, name to type; all are the engine's own but `cpu`.
        plain: the engine options of an unoptimized fp32 model.
        vendor: those of the engine as its vendor ships it.
        profiles: for an engine that is built for a range of sizes: its option `profiles` for specs and a recipe's axes.
        half: where it computes in fp16 what the graph has in fp16, and is faster for it, options for that: `cast_fp16`
            makes candidates with them. None where it does not.
        bf16: options under which it computes in bf16 what the graph has in float, where this processor can: what is
            asked for becomes a candidate with them too. Empty where it cannot, or where the graph says it.
        limits: for a `cpu` that is older than this one, engine options that have only its kernels run here; a bundle
            does not take them along. The plain options stand for `vendor` beside them.
        settings: by a label, options worth a try in the place of a candidate's own, for a host and the sizes of named
            axes that are called: how an engine is run, not what it computes. The option `fixed` has these sizes.
        trees: it has the ops of the domain ai.onnx.ml, which are trees, support vectors and what comes before them.
        text: it takes and gives text.
        unproven: what of it was never tried, said to whoever is about to rely on it; empty where all was.
    """

    name: str
    engine: str
    why_not: Callable[[], str | None]
    scheme: Callable[[str, Host], Scheme]
    options: Mapping[str, type]
    plain: Mapping[str, Any]
    vendor: Mapping[str, Any]
    profiles: Callable[[Specs, Mapping[str, Mapping[str, int]]], Mapping[str, Any]] | None = None
    half: Mapping[str, Any] | None = None
    bf16: Callable[[Host], Mapping[str, Any]] = lambda host: {}
    limits: Callable[[str], Mapping[str, Any]] = lambda cpu: {}
    settings: Callable[[Host, Mapping[str, Any], Mapping[str, int]], Mapping[str, Mapping[str, Any]]] = (
        lambda host, options, sizes: {}
    )
    trees: bool = False
    text: bool = False
    unproven: str = ""

    def engine_options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The plain options, with what a recipe asks for on top.

        Raises:
            InputError: an option that the target does not know, or of the wrong type.
        """
        engines.check_options(self.name, asked, {**self.options, "cpu": str})
        if asked.get("cpu", "host") not in CPUS:
            raise InputError(listing.unknown(f"cpu of {self.name}", str(asked["cpu"]), CPUS))
        given = {key: value for key, value in asked.items() if key != "cpu"}
        return {**self.plain, **self.limits(asked.get("cpu", "host")), **given}


def get(name: str) -> Target:
    """The target of this name.

    Raises:
        InputError: there is none.
    """
    target: Target = listing.get(__name__, name, "target").TARGET
    return target


def names() -> list[str]:
    """All targets, whether they can be compiled for here or not."""
    return listing.names(__name__)


def missing(module: str, extra: str) -> str | None:
    """None where a library imports here, else the sentence that names its extra."""
    try:
        engines.library(module, extra)
    except EngineMissing as error:
        return str(error)
    return None


def thread_counts(host: Host) -> dict[str, int]:
    """One thread, and half of the cores', each with its label; all of them are what an engine has by itself."""
    counts = sorted({1, max(1, host.cores // 2)} - {host.cores})
    return {f"{count}-thread{'s' if count > 1 else ''}": count for count in counts}


def saturates(cpu: str, host: Host) -> bool:
    """Whether u8 x s8 products are summed in 16 bits: x86 without VNNI. ARM's dot products are wide enough."""
    if cpu == "host":
        return host.architecture in ("x86_64", "AMD64") and not {"avx512_vnni", "avx_vnni"} & set(host.instruction_sets)
    return cpu == "avx2"
