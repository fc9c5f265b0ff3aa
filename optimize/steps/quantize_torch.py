"""Post-training int8 on the torch graph, by neural-compressor's PT2E path, exported with its Q/DQ pairs.

torch captures the model, neural-compressor places observers as its X86 quantizer knows the kernels, the calibration
data goes through, and torch's exporter writes what came of it.
"""

import copy
import logging
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from optimize.folder import warnings_to_log
from optimize.models import OnnxModel, TorchModel, write_onnx
from optimize.sources.torch import TorchSession, tensors
from optimize.steps import Context, Settings
from optimize.steps._graph import drop_unused
from optimize.steps._probes import BATCH, batches
from optimize.steps._schemes import HEEDED, conform, offences
from optimize.steps.export import cause, dynamic_shapes, exported, largest
from optimize.verify import sized_feeds
from runtime.engines import library
from runtime.errors import StepError
from runtime.tensors import Specs
from targets import Scheme

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)

OPSET = 18


class Step(Settings):
    """Settings.

    Attributes:
        samples: of calibrate, from the beginning.
        calibration: how ranges are found: a running minimum and maximum, or by least divergence.
        wide: as `quantize_static` has it; neural-compressor knows no other weights.
        exclude: patterns of module names (or classes) to leave in float.
        vendor: more of neural-compressor's `StaticQuantConfig`, handed on as it is.
    """

    label: ClassVar[str] = "int8-torch"
    heeds: ClassVar[frozenset[str]] = HEEDED - {"reduce_range"}  # which `unfit` has seen to
    samples: int = Field(default=300, ge=1)
    calibration: Literal["minmax", "kl"] = "minmax"
    wide: bool = False
    exclude: tuple[str, ...] = ()
    vendor: dict[str, Any] = Field(default_factory=dict)

    def title(self) -> str:
        """`int8-torch`, and whether it is wide."""
        return f"{self.label}-wide" if self.wide else self.label

    def unfit(self, scheme: Scheme) -> str:
        """Its weights have 8 bits, which kernels must not saturate with, unless that is seen."""
        return (
            "its weights have 8 bits, and kernels may saturate: see `wide`"
            if scheme.reduce_range and not self.wide
            else ""
        )

    def __call__(self, model: TorchModel, context: Context) -> OnnxModel:
        """Write a Q/DQ model.onnx.

        Raises:
            EngineMissing: neural-compressor is not installed.
            StepError: torch cannot capture the model (the module is named), neural-compressor refuses it, a pattern
                matches nothing, nothing was quantized, or the result is not in the target's scheme.
        """
        feeds = sized_feeds(context.calibrate, model.inputs, largest(model.inputs, context))
        names = list(TorchSession(model.module, model.inputs, None).run(feeds))
        with warnings_to_log():
            rounded = self._rounded(model, context, feeds)
        try:
            proto = exported(rounded, model.inputs, feeds, names, context.folder, OPSET)
        except Exception as error:  # the exporter raises whatever the first op that it lacks raises
            log.exception("the export of what neural-compressor made failed")
            raise StepError(f"torch's exporter does not take neural-compressor's result: {cause(error)}") from error
        small_weights(proto)
        if not any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
            raise StepError("neural-compressor quantized nothing in this model")
        conform(proto, context.scheme)
        if offending := offences(proto, context.scheme):
            raise StepError(f"neural-compressor does not keep to the scheme of this target: {'; '.join(offending)}")
        return write_onnx(proto, context.folder / "model.onnx")

    def _rounded(self, model: TorchModel, context: Context, feeds: dict[str, Any]) -> "nn.Module":
        import torch

        inc: Any = library("neural_compressor.torch.quantization", "optimize")
        module = copy.deepcopy(model.module).eval()
        shapes = dynamic_shapes(module, model.inputs)
        config = self._config(inc, module, context)
        arguments = tuple(tensors(feeds, model.inputs))
        try:
            with torch.no_grad():
                captured: Any = torch.export.export(module, arguments, dynamic_shapes=shapes).module()
        except Exception as error:
            log.exception("torch.export failed")
            raise StepError(f"torch cannot capture the model{_where(error)}: {cause(error)}") from error
        # what neural-compressor's own `export` leaves on it, which drops the reason of a failure
        captured._exported, captured.dynamic_shapes = True, shapes
        try:
            with torch.no_grad():
                observed = inc.prepare(captured, config)
                fixed = model.inputs[0].shape[0] if model.inputs[0].shape else 1
                most = fixed if isinstance(fixed, int) else BATCH
                for part in batches(context.calibrate, Specs(model.inputs, ()), self.samples, most):
                    observed(*tensors(part, model.inputs))
                found: nn.Module = inc.convert(observed)
                return found
        except Exception as error:  # its own errors share no base
            log.exception("neural-compressor failed")
            raise StepError(f"neural-compressor failed: {cause(error)}") from error

    def _config(self, inc: Any, module: "nn.Module", context: Context) -> Any:
        scheme = context.scheme
        config = inc.StaticQuantConfig(
            w_dtype=scheme.weight,
            w_sym=scheme.weight_symmetric,
            w_granularity="per_channel" if scheme.per_channel else "per_tensor",
            act_dtype=scheme.activation,
            act_sym=scheme.activation_symmetric,
            act_algo=self.calibration,
            **self.vendor,
        )
        float_kept = inc.StaticQuantConfig(w_dtype="fp32", act_dtype="fp32")
        for pattern in self.exclude:
            found = [
                name
                for name, one in module.named_modules()
                if name and (fnmatch(name, pattern) or fnmatch(type(one).__name__, pattern))
            ]
            if not found:
                known = [name for name, one in module.named_modules() if name and not list(one.children())]
                raise StepError(f"exclude '{pattern}' matches no module; there are {', '.join(known[:8])}")
            for name in found:
                config.set_local(name, float_kept)
        return config


def small_weights(proto: Any) -> None:
    """Weights that are rounded in the graph as the whole numbers that come of it, in place."""
    from onnx import numpy_helper
    from onnx.reference import ReferenceEvaluator

    values = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "Clip") or any(name and name not in values for name in node.input):
            continue
        inputs = [numpy_helper.to_array(values[name]) for name in node.input if name]
        places = [f"in{place}" for place in range(len(inputs))]
        alone = type(node)()
        alone.CopyFrom(node)
        alone.input[:] = places
        found: Any = ReferenceEvaluator(alone).run(None, dict(zip(places, inputs, strict=True)))
        values[node.output[0]] = tensor = numpy_helper.from_array(found[0], node.output[0])
        proto.graph.initializer.append(tensor)
    kept = [node for node in proto.graph.node if node.output[0] not in values]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    drop_unused(proto)


def _where(error: BaseException) -> str:
    """The innermost of the user's modules that was running."""
    from torch import nn

    found, trace = "", error.__traceback__
    while trace is not None:
        one = trace.tb_frame.f_locals.get("self")
        if isinstance(one, nn.Module) and not type(one).__module__.startswith("torch."):
            place = f"line {trace.tb_lineno} of {trace.tb_frame.f_code.co_name}"
            found = f" (in {type(one).__name__}, {place})"
        trace = trace.tb_next
    return found
