"""ONNX Runtime's Q/DQ quantizer, told which nodes take int8 and which tensors are given in it."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from optimize.steps._layers import MULTIPLIES, Graph
from runtime.engines import library
from runtime.errors import StepError
from targets import Scheme

log = logging.getLogger(__name__)

_TOLD = MULTIPLIES | {"Add", "Mul"}


def by_onnxruntime(
    proto: Any, *, names: Sequence[str], ops: Collection[str], given: Sequence[str],
    found: Mapping[str, tuple[float, float]], scheme: Scheme, vendor: Mapping[str, Any],
) -> Any:  # fmt: skip
    """A copy of a float graph with Q/DQ pairs.

    Args:
        proto: in float32; its nodes have names.
        names: of the nodes whose inputs are quantized.
        ops: their op types.
        given: the tensors that kernels give in int8, behind their activations.
        found: the range of each tensor.
        scheme: the target's.
        vendor: more of the quantizer's `extra_options`.

    Raises:
        StepError: the quantizer refuses the graph.
    """
    import onnx

    ort: Any = library("onnxruntime.quantization", "onnxruntime")
    inner: Any = library("onnxruntime.quantization.qdq_quantizer", "onnxruntime")
    calibrate: Any = library("onnxruntime.quantization.calibrate", "onnxruntime")
    types = {"uint8": ort.QuantType.QUInt8, "int8": ort.QuantType.QInt8}
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    seen = {
        name: calibrate.TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in found.items()
    }
    # what these give is told by tensor, behind the activation; a pooling keeps its input's scale, the library's way
    told = set(ops) & _TOLD if scheme.quantize_outputs else scheme.ops
    options = {
        "ActivationSymmetric": scheme.activation_symmetric,
        "WeightSymmetric": scheme.weight_symmetric,
        "QuantizeBias": scheme.quantize_bias,
        "OpTypesToExcludeOutputQuantization": list(told),
        **vendor,
    }
    try:
        quantizer = inner.QDQQuantizer(
            copy, scheme.per_channel, scheme.reduce_range, types[scheme.weight], types[scheme.activation],
            calibrate.TensorsData(ort.CalibrationMethod.MinMax, seen), list(names), [], sorted(ops), options,
        )  # fmt: skip
        for name in given if scheme.quantize_outputs else ():
            quantizer.quantize_activation_tensor(name)
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        rounded = quantizer.model.model
    except Exception as error:  # its own errors share no base
        log.exception("ONNX Runtime's quantizer failed")
        raise StepError(f"ONNX Runtime's quantizer failed: {type(error).__name__}: {error}") from error
    _spare(rounded, set(names), set(given))
    return rounded


def _spare(proto: Any, names: set[str], given: set[str]) -> None:
    """Let float nodes read the float tensor where there is one: the quantizer has every reader read the rounded one.

    A residual stream would be rounded at each layer that it passes by.
    """
    graph = Graph(proto)
    for node in graph.nodes:
        if node.name in names or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for place, name in enumerate(node.input):
            back = graph.maker.get(name)
            before = graph.maker.get(back.input[0]) if back is not None and back.op_type == "DequantizeLinear" else None
            if before is not None and before.op_type == "QuantizeLinear" and before.input[0] not in given:
                node.input[place] = before.input[0]
