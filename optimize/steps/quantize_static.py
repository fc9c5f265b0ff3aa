"""Post-training int8: Q/DQ pairs in the scheme that the target's kernels fuse, by one of two libraries.

`onnxruntime`: where the pairs go is decided here, since an exclusion by its own list can tear a convolution from the
activation that it removed, and ruin a model; weights, scales and biases are its quantizer's. `nncf`: all is NNCF's.
Either result is read afterwards, and refused where it does not keep to the scheme.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from optimize.models import OnnxModel, write_onnx
from optimize.steps import Context, Settings, _nncf
from optimize.steps._bias import correct_bias
from optimize.steps._equalize import equalize
from optimize.steps._graph import matches
from optimize.steps._layers import MULTIPLIES, Graph, in_int8
from optimize.steps._onnxruntime import by_onnxruntime
from optimize.steps._ranges import ranges
from optimize.steps._ready import in_float32, refuse_twice
from optimize.steps._schemes import HEEDED, conform, narrow, offences, tables_last
from runtime.errors import NothingToDo, StepError
from targets import Scheme

_OF = {"onnxruntime": ("calibration", "percentile"), "nncf": ("preset", "smooth_quant")}


class Step(Settings):
    """Settings. What Q/DQ looks like is the target's to say, not the user's.

    Attributes:
        method: the library that quantizes; `auto` makes a candidate by each.
        samples: of calibrate, from the beginning.
        calibration: how `onnxruntime`'s ranges are found: all values, the middle ones, or by least divergence.
        percentile: of the values that `percentile` keeps.
        preset: `nncf`'s: activations about zero (`performance`) or not (`mixed`), where the scheme leaves it open.
        smooth_quant: `nncf`'s alpha for matrix products, 0 to 1; None for its own choice.
        equalize: stretch channels between convolutions first, so that one scale serves them.
        bias_correction: of the shift in a layer's mean: `fast` by each layer alone, `full` (`nncf`) by all before it.
        wide: weights in 8 bits where the target's kernels may saturate too (x86 without VNNI); what does shows in the
            accuracy that is measured there. `nncf` keeps to 7 in the first layer, as it does by itself.
        include: patterns of node names (or op types) to quantize.
        exclude: patterns of node names (or op types) to leave in float.
        vendor: more of ONNX Runtime's `extra_options`, or of `nncf.quantize`'s arguments, handed on as they are.
    """

    label: ClassVar[str] = "int8"
    heeds: ClassVar[frozenset[str]] = HEEDED | {"ops", "quantize_outputs", "products"}
    method: Literal["auto", "onnxruntime", "nncf"] = "onnxruntime"
    samples: int = Field(default=300, ge=1)
    calibration: Literal["minmax", "percentile", "entropy"] = "minmax"
    percentile: float = Field(default=99.99, gt=50, le=100)
    preset: Literal["performance", "mixed"] | None = None
    smooth_quant: float | None = Field(default=None, ge=0, le=1)
    equalize: bool = False
    bias_correction: Literal["none", "fast", "full"] = "fast"
    wide: bool = False
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    vendor: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _own(self) -> "Step":
        for method, fields in _OF.items():
            foreign = [name for name in fields if getattr(self, name) != type(self).model_fields[name].default]
            if self.method not in ("auto", method) and foreign:
                raise ValueError(f"'{foreign[0]}' is of method '{method}', not of '{self.method}'")
        if deaf := [name for name in self.vendor if name.startswith("Calib")]:
            raise ValueError(f"{deaf[0]} is not heard here: set `calibration`, `percentile` and `samples`")
        if self.method == "onnxruntime" and self.bias_correction == "full":
            raise ValueError("bias_correction 'full' is of method 'nncf'; 'fast' and 'none' are of both")
        return self

    def ways(self) -> tuple[Settings, ...]:
        """Where the method is `auto` one by each library, and one with ranges that leave outliers out."""
        if self.method != "auto":
            return (self,)
        found = [self.model_copy(update={"method": method}) for method in _OF]
        if self.calibration == "minmax" and not self.wide:
            found.insert(1, self.model_copy(update={"method": "onnxruntime", "calibration": "percentile"}))
        return tuple(found)

    def title(self) -> str:
        """`int8`, with the library where it is not ONNX Runtime, and the ranges where they are not the whole ones."""
        found = self.label if self.method == "onnxruntime" else f"{self.label}-{self.method}"
        if self.method == "onnxruntime" and self.calibration != "minmax":
            found += f"-{self.calibration}"
        return f"{found}-wide" if self.wide else found

    def check_order(self, before: tuple[Settings, ...], after: tuple[Settings, ...]) -> None:
        """What is rounded already cannot be rounded again."""
        refuse_twice(self, before)

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a Q/DQ model.onnx.

        Raises:
            StepError: the model is quantized already, nothing in it can be, a pattern matches nothing, the quantizer
                refuses it, or what it wrote is not in the target's scheme.
        """
        if self.wide:
            context = replace(context, scheme=replace(context.scheme, reduce_range=False))
        proto = in_float32(model, context)
        graph = Graph(proto)
        self._check(graph)
        if self.equalize:
            done = equalize(proto, model, context, self.samples)
            context.notes.append(f"the channels of {done} tensors between convolutions were equalized")
            graph = Graph(proto)
        chosen, given = in_int8(graph, context.scheme.ops, lambda node: self._kept(node, graph, context.scheme))
        if not any(node.op_type in MULTIPLIES for node in chosen):
            kinds = sorted({node.op_type for node in graph.nodes})
            raise NothingToDo(f"there is nothing to quantize: the model has {', '.join(kinds)}, none of them chosen")
        rounding = (
            self._by_nncf(graph, model, context)
            if self.method == "nncf"
            else self._by_onnxruntime(graph, model, context, chosen, given)
        )
        rounded = rounding(proto)
        if self.bias_correction == "fast":
            done = correct_bias(proto, rounded, model, context, self.samples)
            if done:
                context.notes.append(f"the biases of {done} layers were corrected")
                rounded = rounding(proto)
        if offending := offences(rounded, context.scheme):
            raise StepError(f"{self.method} does not keep to the scheme of this target: {'; '.join(offending)}")
        return write_onnx(rounded, context.folder / "model.onnx")

    def _check(self, graph: Graph) -> None:
        for field in ("include", "exclude"):
            for pattern in getattr(self, field):
                if not any(matches(node, pattern) for node in graph.nodes):
                    kinds = sorted({node.op_type for node in graph.nodes})
                    names = [node.name for node in graph.nodes if node.op_type in MULTIPLIES][:3]
                    raise StepError(
                        f"{field} '{pattern}' matches nothing: the model has {', '.join(kinds)}, with names such as "
                        f"{', '.join(names) or graph.nodes[0].name}"
                    )

    def _kept(self, node: Any, graph: Graph, scheme: Scheme) -> bool:
        if node.op_type == "MatMul" and not scheme.products and len(graph.moving(node)) > 1:
            return True
        included = any(matches(node, pattern) for pattern in self.include)
        return not included or any(matches(node, pattern) for pattern in self.exclude)

    def _by_nncf(self, graph: Graph, model: OnnxModel, context: Context) -> Callable[[Any], Any]:
        kept = [node.name for node in graph.nodes if self._kept(node, graph, context.scheme)]

        def rounding(proto: Any) -> Any:
            rounded = _nncf.quantize(proto, model, context, self, kept)
            conform(rounded, context.scheme)
            if context.scheme.reduce_range and (halved := narrow(rounded)):
                said = f"NNCF left the weights of {halved} layers in 8 bits; their numbers were halved to be of 7"
                context.notes.extend([said] if said not in context.notes else [])
            tables_last(rounded)
            return rounded

        return rounding

    def _by_onnxruntime(
        self, graph: Graph, model: OnnxModel, context: Context, chosen: list[Any], given: list[str]
    ) -> Callable[[Any], Any]:
        scheme = context.scheme
        chosen = [node for node in chosen if not self._biases(graph, node, context)]
        tensors = dict.fromkeys(name for node in chosen for name in graph.moving(node))
        tensors |= dict.fromkeys(name for node in chosen for name in node.output)
        tensors |= dict.fromkeys(given)
        found = ranges(graph.proto, list(tensors), model, context, self.samples, self.calibration, self.percentile)
        return partial(
            by_onnxruntime,
            names=[node.name for node in chosen],
            ops={node.op_type for node in chosen},
            given=given,
            found=found,
            scheme=scheme,
            vendor=self.vendor,
        )

    def _biases(self, graph: Graph, node: Any, context: Context) -> bool:
        """An Add of a constant is a bias, whatever the exporter calls it, and stays in float where biases do."""
        constant = any(name in graph.constants for name in node.input)
        return node.op_type == "Add" and constant and not context.scheme.quantize_bias
