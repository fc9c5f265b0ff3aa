"""Cast a graph to bf16, for targets that take precision from the graph: TensorRT, and ONNX's own evaluator.

OpenVINO computes in bf16 by an option, and gets a candidate with it by itself. bf16 has float32's range, so nothing
overflows and no scan is needed; it has 8 bits of a number, so sums of many of them want float32 inside, which kernels
have.
"""

from typing import ClassVar

from optimize.models import OnnxModel, write_onnx
from optimize.steps import Context, Settings
from optimize.steps._graph import matches, name_nodes, opset_of, raised
from optimize.steps._half import BF16, HalfGraph, cast
from optimize.steps._probes import types
from runtime.errors import StepError
from targets import Scheme

OPSET = 22  # the first whose convolutions and pools may be bf16


class Step(Settings):
    """Settings of the cast; inputs and outputs stay float32, since numpy has no bf16.

    Attributes:
        exclude: patterns of node names (or op types) to leave in float32.
    """

    label: ClassVar[str] = "bf16"
    heeds: ClassVar[frozenset[str]] = frozenset({"bf16"})
    exclude: tuple[str, ...] = ()

    def unfit(self, scheme: Scheme) -> str:
        """It must take precision from the graph, and know bf16."""
        return (
            ""
            if scheme.bf16
            else "this target does not take bf16 from the graph; TensorRT does, and OpenVINO computes in it where "
            "[targets.openvino] has precision = 'bf16'"
        )

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx in bf16.

        Raises:
            StepError: the target does not run it, or the model cannot be raised to the opset that it needs.
        """
        import onnx

        if reason := self.unfit(context.scheme):
            raise StepError(reason)
        proto = onnx.load(model.path)
        if opset_of(proto) < OPSET:
            proto = raised(proto, model, context, OPSET)
        name_nodes(proto)
        graph = HalfGraph(proto, types(proto, context.folder), BF16)
        kept = graph.without_half() | {
            index: "excluded"
            for index, node in enumerate(proto.graph.node)
            if any(matches(node, pattern) for pattern in self.exclude)
        }
        graph.follow(kept, keep_io=True)
        cast(graph, kept, keep_io=True)
        context.notes.append(f"{len(graph.nodes) - len(kept)} of {len(graph.nodes)} ops are in bf16")
        return write_onnx(proto, context.folder / "model.onnx")
