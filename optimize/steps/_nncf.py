"""NNCF's post-training quantization of an ONNX graph, told the target's scheme."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from optimize.models import OnnxModel
from optimize.steps import Context
from optimize.steps._layers import Graph
from optimize.steps._probes import batches
from runtime.engines import library
from runtime.errors import StepError
from runtime.tensors import Array

if TYPE_CHECKING:
    from optimize.steps.quantize_static import Step
    from optimize.steps.quantize_weights import Step as Weights

log = logging.getLogger(__name__)

_NORMS = {"LayerNormalization", "Softmax"}


def quantize(proto: Any, model: OnnxModel, context: Context, settings: "Step", kept: Sequence[str]) -> Any:
    """The graph with NNCF's Q/DQ pairs.

    Args:
        proto: in float32; its nodes have names.
        model: whose inputs the calibration data is for.
        context: with the scheme and the data.
        settings: of the step.
        kept: names of the nodes to leave in float.

    Raises:
        EngineMissing: NNCF is not installed.
        StepError: it refuses the model.
    """
    nncf: Any = library("nncf", "optimize")
    advanced: Any = library("nncf.quantization.advanced_parameters", "optimize")
    scheme = context.scheme
    symmetry = {True: advanced.QuantizationMode.SYMMETRIC, False: advanced.QuantizationMode.ASYMMETRIC}
    fix = advanced.OverflowFix.FIRST_LAYER if settings.wide else advanced.OverflowFix.DISABLE
    more = advanced.AdvancedQuantizationParameters(
        overflow_fix=advanced.OverflowFix.ENABLE if scheme.reduce_range else fix,
        disable_bias_correction=settings.bias_correction != "full",
        # signed or not it does not let itself be told: `conform` moves the numbers
        activations_quantization_params=advanced.QuantizationParameters(
            mode=symmetry[scheme.activation_symmetric or settings.preset == "performance"], per_channel=False
        ),
        weights_quantization_params=advanced.QuantizationParameters(
            mode=symmetry[scheme.weight_symmetric], per_channel=scheme.per_channel
        ),
    )
    if settings.smooth_quant is not None:
        more.smooth_quant_alphas = advanced.AdvancedSmoothQuantParameters(matmul=settings.smooth_quant)
    transformer = {node.op_type for node in Graph(proto).nodes} >= _NORMS
    arguments = {
        "target_device": nncf.TargetDevice.CPU,
        "subset_size": settings.samples,
        "fast_bias_correction": False,
        "model_type": nncf.ModelType.TRANSFORMER if transformer else None,
        "ignored_scope": nncf.IgnoredScope(names=list(kept)) if kept else None,
        "advanced_parameters": more,
        **settings.vendor,
    }
    try:
        return nncf.quantize(_copied(proto), nncf.Dataset(_Passes(model, context, settings.samples)), **arguments)
    except Exception as error:  # its own errors share no base
        log.exception("NNCF failed")
        raise StepError(f"NNCF failed: {type(error).__name__}: {error}") from error


def compress(
    proto: Any, model: OnnxModel, context: Context, settings: "Weights", kept: Sequence[str], symmetric: bool
) -> Any:
    """The graph with weights in 4 bits, scaled by what activations make of them (AWQ).

    Args:
        proto: in float32; its nodes have names.
        model: whose inputs the calibration data is for.
        context: with the data.
        settings: of the step.
        kept: names of the nodes to leave in float.
        symmetric: no zero points.

    Raises:
        EngineMissing: NNCF is not installed.
        StepError: it refuses the model.
    """
    nncf: Any = library("nncf", "optimize")
    mode = nncf.CompressWeightsMode.INT4_SYM if symmetric else nncf.CompressWeightsMode.INT4_ASYM
    data = nncf.Dataset(_Passes(model, context, settings.samples))
    try:
        return nncf.compress_weights(
            _copied(proto), mode=mode, group_size=settings.block, dataset=data, subset_size=settings.samples, awq=True,
            all_layers=True, backup_mode=nncf.BackupMode.NONE, ignored_scope=nncf.IgnoredScope(names=list(kept)),
        )  # fmt: skip
    except Exception as error:  # its own errors share no base
        log.exception("NNCF failed")
        raise StepError(f"NNCF failed: {type(error).__name__}: {error}") from error


def _copied(proto: Any) -> Any:
    """It changes what it is given."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy


class _Passes:
    """The calibration data as NNCF reads it: again and again, one sample an item, since it counts items."""

    def __init__(self, model: OnnxModel, context: Context, samples: int) -> None:
        self._begin = partial(batches, context.calibrate, model.specs, samples, 1)

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return self._begin()
