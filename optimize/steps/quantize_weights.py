"""Weights alone in int8 or int4, in blocks that share a scale; products are summed in float. For what waits for memory.

By ONNX Runtime's `matmul_nbits_quantizer`: rounding to nearest, and HQQ (Badri and Shaji 2023), which moves the zero
points against outliers. By NNCF: AWQ (Lin et al. 2023, arXiv:2306.00978), which first scales up what real activations
make important. Here: GPTQ (`_gptq`).
"""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from optimize.folder import warnings_to_log
from optimize.models import OnnxModel, write_onnx
from optimize.steps import Context, Settings, _nncf
from optimize.steps._blocks import BLOCKED_OPSET, blocks_of, gemms_to_products, in_nbits, in_own_ops
from optimize.steps._gptq import by_gptq
from optimize.steps._graph import drop_unused, matches, name_nodes, opset_of, raised
from optimize.steps._layers import Graph
from optimize.steps._ready import in_float32, refuse_twice
from runtime.engines import library
from runtime.errors import NothingToDo, StepError
from targets import Scheme

log = logging.getLogger(__name__)

SHOWN = 5  # layers named in a note


class Step(Settings):
    """Settings.

    Attributes:
        bits: of a weight.
        method: `rtn` rounds to nearest; `hqq` without data, `gptq` and `awq` with data lose less in 4 bits.
        block: how many weights of a column share a scale.
        symmetric: no zero points; a target that knows none has it so in any case.
        compute: what MatMulNBits sums in where the target runs that: `int8` rounds activations in the call.
        samples: of calibrate, for `gptq` and `awq`.
        include: patterns of node names (or op types) to quantize.
        exclude: patterns of node names (or op types) to leave in float.
    """

    label: ClassVar[str] = "weights"
    heeds: ClassVar[frozenset[str]] = frozenset({"blocks", "activation_symmetric"})
    bits: Literal[4, 8] = 8
    method: Literal["rtn", "hqq", "gptq", "awq"] = "rtn"
    block: int = Field(default=128, ge=16, le=256)
    symmetric: bool = False
    compute: Literal["float", "int8"] = "float"
    samples: int = Field(default=128, ge=1)
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @field_validator("block")
    @classmethod
    def _power(cls, block: int) -> int:
        if block & (block - 1):
            raise ValueError("a power of two is needed")
        return block

    @model_validator(mode="after")
    def _own(self) -> "Step":
        if self.method != "rtn" and self.bits == 8:
            raise ValueError(f"method '{self.method}' is for bits = 4; 8 bits lose next to nothing by 'rtn'")
        if self.method == "hqq" and self.symmetric:
            raise ValueError("method 'hqq' is made of zero points: it is not symmetric")
        return self

    def title(self) -> str:
        """`weights8`, `weights4-gptq`."""
        return f"{self.label}{self.bits}" + ("" if self.method == "rtn" else f"-{self.method}")

    def check_order(self, before: tuple[Settings, ...], after: tuple[Settings, ...]) -> None:
        """What is rounded already cannot be rounded again."""
        refuse_twice(self, before)

    def unfit(self, scheme: Scheme) -> str:
        """It must know weights in blocks; fractional zero points are ONNX Runtime's alone."""
        if not scheme.blocks:
            return "this target has no kernels for weights that are smaller than what they multiply"
        if self.method == "hqq" and scheme.blocks != "MatMulNBits":
            return "hqq's zero points are no whole numbers, which only MatMulNBits of ONNX Runtime takes"
        return ""

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx with the weights of matrix products in blocks.

        Raises:
            StepError: the target runs no such form or has none for the method, the model is quantized already, or has
                no product with a constant weight.
        """
        form = context.scheme.blocks
        if reason := self.unfit(context.scheme):
            raise StepError(reason)
        symmetric = self.symmetric or context.scheme.activation_symmetric  # such kernels know no zero points
        proto = in_float32(model, context)
        gemms_to_products(proto)
        name_nodes(proto)
        chosen = self._chosen(Graph(proto), context, form)
        if (form != "MatMulNBits" or self.method == "awq") and opset_of(proto) < BLOCKED_OPSET:
            proto = raised(proto, model, context, BLOCKED_OPSET)
        try:
            rounded = self._rounded(proto, model, context, chosen, symmetric)
        except StepError:
            raise
        except Exception as error:  # its own errors share no base
            log.exception("the quantizer of weights failed")
            raise StepError(f"{self.method} failed: {type(error).__name__}: {error}") from error
        if form != "MatMulNBits":
            in_own_ops(rounded)
        drop_unused(rounded)
        return write_onnx(rounded, context.folder / "model.onnx")

    def _chosen(self, graph: Graph, context: Context, form: str) -> list[str]:
        """The names of the products whose weights are rounded; what is left out is noted."""
        shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.proto.graph.initializer}
        able = [node for node in graph.nodes if node.op_type == "MatMul" and len(shapes.get(node.input[1], ())) == 2]
        for pattern in (*self.include, *self.exclude):
            if not any(matches(node, pattern) for node in graph.nodes):
                names = ", ".join(node.name for node in able[:SHOWN])
                raise StepError(f"the pattern '{pattern}' matches nothing; products with constant weights are: {names}")
        asked = [
            node
            for node in able
            if any(matches(node, pattern) for pattern in self.include)
            and not any(matches(node, pattern) for pattern in self.exclude)
        ]
        # ONNX's own form has whole blocks; MatMulNBits fills the last one up
        chosen = [node for node in asked if form == "MatMulNBits" or shapes[node.input[1]][0] % self.block == 0]
        if not chosen:
            kinds = ", ".join(sorted({node.op_type for node in graph.nodes}))
            what = f"none of their lengths is a multiple of block = {self.block}" if asked else "none of them chosen"
            raise NothingToDo(f"there are no weights to round: the model has {kinds}, {what}")
        if left := [node.name for node in able if node not in chosen]:
            context.notes.append(f"weights left in float: {_some(left)}")
        tied = [node.name for node in chosen if len(graph.users[node.input[1]]) > 1]
        if tied:
            context.notes.append(f"weights that others use too, which keep a copy in float: {_some(tied)}")
        context.notes.append(
            f"the weights of {len(chosen)} products are in {self.bits} bits, in blocks of {self.block}"
        )
        return [node.name for node in chosen]

    def _rounded(self, proto: Any, model: OnnxModel, context: Context, chosen: Sequence[str], symmetric: bool) -> Any:
        others = [node.name for node in proto.graph.node if node.op_type == "MatMul" and node.name not in chosen]
        level = 4 if self.compute == "int8" and context.scheme.blocks == "MatMulNBits" else 0
        if self.method == "awq":
            kept = [node.name for node in proto.graph.node if node.name not in chosen]
            found = _nncf.compress(proto, model, context, self, kept, symmetric)
            # its own MatMulNBits has zero points that ONNX Runtime does not take
            return in_nbits(found, blocks_of(found), level) if context.scheme.blocks == "MatMulNBits" else found
        if self.method == "gptq":
            return by_gptq(
                proto, model, context, chosen, samples=self.samples, bits=self.bits, block=self.block,
                symmetric=symmetric, level=level,
            )  # fmt: skip
        nbits: Any = library("onnxruntime.quantization.matmul_nbits_quantizer", "optimize")
        config = (
            nbits.HQQWeightOnlyQuantConfig(block_size=self.block, bits=self.bits)
            if self.method == "hqq"
            else nbits.DefaultWeightOnlyQuantConfig(
                block_size=self.block, is_symmetric=symmetric, accuracy_level=level or None, bits=self.bits
            )
        )
        quantizer = nbits.MatMulNBitsQuantizer(
            _copied(proto), self.bits, self.block, symmetric, nodes_to_exclude=others, algo_config=config
        )
        with warnings_to_log():
            quantizer.process()
        return quantizer.model.model


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


def _copied(proto: Any) -> Any:
    copy = type(proto)()
    copy.CopyFrom(proto)
    return copy
