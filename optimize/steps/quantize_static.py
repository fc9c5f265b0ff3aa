"""Post-training int8 by ONNX Runtime's quantizer: Q/DQ pairs in the scheme that the target's kernels fuse."""

import logging
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any, ClassVar, Literal

from pydantic import Field

from optimize.data import Split, resized
from optimize.models import EXTERNAL_DATA_BYTES, OnnxModel, write_onnx
from optimize.steps import Context, Settings
from runtime.engines import library
from runtime.errors import StepError
from runtime.tensors import Array

log = logging.getLogger(__name__)

BATCH = 16  # samples a calibration call, where the batch is dynamic


class Step(Settings):
    """Settings of the quantizer. What Q/DQ looks like is the target's to say, not the user's.

    Attributes:
        samples: of calibrate, from the beginning.
        calibration: how ranges are found.
        include: patterns of node names (or op types) to quantize.
        exclude: patterns of node names (or op types) to leave in float.
        vendor: more of ONNX Runtime's `extra_options`, handed on as they are.
    """

    label: ClassVar[str] = "int8"
    scheme_matters: ClassVar[bool] = True
    samples: int = Field(default=300, ge=1)
    calibration: Literal["minmax", "percentile"] = "minmax"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    vendor: dict[str, Any] = Field(default_factory=dict)

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a Q/DQ model.onnx.

        Raises:
            StepError: the quantizer refuses the model, or nothing in it can be quantized.
        """
        import onnx

        ort: Any = library("onnxruntime.quantization", "onnxruntime")
        model = _named(model, context)
        proto = onnx.load(model.path, load_external_data=False)
        weights = {tensor.name for tensor in proto.graph.initializer}
        chosen = [
            node.name
            for node in proto.graph.node
            if node.op_type in context.scheme.ops
            # an Add of a constant is a bias, whatever the exporter calls it
            and (context.scheme.quantize_bias or node.op_type != "Add" or not weights & set(node.input))
            and any(_matches(node, pattern) for pattern in self.include)
            and not any(_matches(node, pattern) for pattern in self.exclude)
        ]
        if not chosen:
            kinds = sorted({node.op_type for node in proto.graph.node})
            raise StepError(f"there is nothing to quantize: the model has {', '.join(kinds)}, none of them chosen")
        methods = ort.CalibrationMethod
        types = {"uint8": ort.QuantType.QUInt8, "int8": ort.QuantType.QInt8}
        scheme = context.scheme
        out = context.folder / "quantized.onnx"
        try:
            ort.quantize_static(
                str(model.path),
                str(out),
                _Reader(model, context, self.samples),
                quant_format=ort.QuantFormat.QDQ,
                op_types_to_quantize=list(scheme.ops),
                nodes_to_quantize=chosen,
                per_channel=scheme.per_channel,
                reduce_range=scheme.reduce_range,
                activation_type=types[scheme.activation],
                weight_type=types[scheme.weight],
                calibrate_method=methods.MinMax if self.calibration == "minmax" else methods.Percentile,
                use_external_data_format=model.path.stat().st_size > EXTERNAL_DATA_BYTES,
                extra_options={
                    "ActivationSymmetric": scheme.activation_symmetric,
                    "WeightSymmetric": scheme.weight_symmetric,
                    "QuantizeBias": scheme.quantize_bias,
                    "OpTypesToExcludeOutputQuantization": [] if scheme.quantize_outputs else list(scheme.ops),
                    **self.vendor,
                },
            )  # fmt: skip
        except Exception as error:  # its own errors share no base
            log.exception("ONNX Runtime's quantizer failed")
            raise StepError(f"ONNX Runtime's quantizer failed: {type(error).__name__}: {error}") from error
        written = write_onnx(onnx.load(out), context.folder / "model.onnx")
        out.unlink()
        return written


class _Reader:
    """Calibration data as ONNX Runtime's quantizer asks for it."""

    def __init__(self, model: OnnxModel, context: Context, samples: int) -> None:
        first = model.specs.inputs[0].shape[0]
        self._feeds = _batches(context.calibrate, samples, first if isinstance(first, int) else None)

    def get_next(self) -> dict[str, Array] | None:
        """The next batch, None at the end."""
        return next(self._feeds, None)


def _batches(split: Split, samples: int, fixed: int | None) -> Iterator[dict[str, Array]]:
    """The first `samples` in batches; where the batch is fixed, whole ones, and one at least that is filled up."""
    seen = 0
    for feeds, _ in split.batches(fixed or min(BATCH, samples)):
        size = len(next(iter(feeds.values())))
        if fixed:
            if size < fixed and seen:
                return
            yield resized(feeds, fixed)
        else:
            yield {name: value[: samples - seen] for name, value in feeds.items()}
        seen += size
        if seen >= samples:
            return


def _named(model: OnnxModel, context: Context) -> OnnxModel:
    """The model with a name on every node, since the quantizer is told by name which to quantize."""
    import onnx

    proto = onnx.load(model.path)
    if all(node.name for node in proto.graph.node):
        return model
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return write_onnx(proto, context.folder / "named.onnx")


def _matches(node: Any, pattern: str) -> bool:
    return fnmatch(node.name, pattern) or fnmatch(node.op_type, pattern)
