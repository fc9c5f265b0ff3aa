"""Dynamic int8 by ONNX Runtime: weights are rounded now, activations in each call by their own range, with no data."""

import logging
from typing import Any, ClassVar

from optimize.models import EXTERNAL_DATA_BYTES, OnnxModel, write_onnx
from optimize.steps import Context, Settings
from optimize.steps._graph import matches
from optimize.steps._layers import Graph
from optimize.steps._ready import in_float32, refuse_twice
from runtime.engines import library
from runtime.errors import NothingToDo, StepError
from targets import Scheme

log = logging.getLogger(__name__)

OPS = ("MatMul", "Gemm", "Attention", "LSTM", "GRU", "Gather")  # convolutions are slower so than in float


class Step(Settings):
    """Settings.

    Attributes:
        include: patterns of node names (or op types) to quantize.
        exclude: patterns of node names (or op types) to leave in float.
    """

    label: ClassVar[str] = "dynamic"
    heeds: ClassVar[frozenset[str]] = frozenset({"dynamic", "per_channel", "reduce_range"})
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def check_order(self, before: tuple[Settings, ...], after: tuple[Settings, ...]) -> None:
        """What is rounded already cannot be rounded again."""
        refuse_twice(self, before)

    def unfit(self, scheme: Scheme) -> str:
        """ONNX Runtime alone rounds in the call."""
        return "" if scheme.dynamic else "this target has no kernels that round in the call; ONNX Runtime has them"

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx with MatMulInteger in place of products with constant weights.

        Raises:
            StepError: the target does not run it, the model is quantized already, or has no such product.
        """
        import onnx

        ort: Any = library("onnxruntime.quantization", "onnxruntime")
        if reason := self.unfit(context.scheme):
            raise StepError(reason)
        proto = in_float32(model, context)
        graph = Graph(proto)
        chosen = [
            node
            for node in graph.nodes
            if node.op_type in OPS
            and any(name in graph.constants for name in node.input[:2])
            and any(matches(node, pattern) for pattern in self.include)
            and not any(matches(node, pattern) for pattern in self.exclude)
        ]
        if not chosen:
            kinds = sorted({node.op_type for node in graph.nodes})
            raise NothingToDo(f"there is nothing to quantize: the model has {', '.join(kinds)}, none of them chosen")
        ready = write_onnx(proto, context.folder / "ready.onnx")
        out = context.folder / "quantized.onnx"
        try:
            ort.quantize_dynamic(
                str(ready.path),
                str(out),
                op_types_to_quantize=sorted({node.op_type for node in chosen}),
                nodes_to_quantize=[node.name for node in chosen],
                per_channel=context.scheme.per_channel,
                reduce_range=context.scheme.reduce_range,
                weight_type=ort.QuantType.QInt8,
                use_external_data_format=ready.path.stat().st_size > EXTERNAL_DATA_BYTES,
            )
        except Exception as error:  # its own errors share no base
            log.exception("ONNX Runtime's quantizer failed")
            raise StepError(f"ONNX Runtime's quantizer failed: {type(error).__name__}: {error}") from error
        written = write_onnx(onnx.load(out), context.folder / "model.onnx")
        for left in (*context.folder.glob("ready.onnx*"), *context.folder.glob("quantized.onnx*")):
            left.unlink()
        return written
