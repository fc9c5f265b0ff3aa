"""Export a torch module or program to ONNX and prove on real data that the file computes the same, at any batch."""

import logging
import re
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from optimize.folder import warnings_to_log
from optimize.models import OnnxModel, TorchModel, write_onnx
from optimize.sources import _exported
from optimize.sources.torch import TorchSession, tensors
from optimize.steps import Context, Settings
from optimize.steps._pools import translations
from optimize.verify import check_equal, sized_feeds
from runtime.errors import StepError
from runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

log = logging.getLogger(__name__)

_LINE = re.compile(r'File "([^"]+)", line (\d+)|^(\S+)\((\d+)\): ', re.MULTILINE)


class Step(Settings):
    """Settings of the export.

    Attributes:
        exporter: `auto` takes torch.export's ("dynamo"), and the older tracing one where that fails; of TorchScript the
            older one alone, which does not trace it.
        opset: of the ONNX file.
        stock: `dynamo` exactly as torch has it, without what is translated better here (`_pools`).
        tolerance: largest relative error (Euclidean norm) against torch.
    """

    exact: ClassVar[bool] = True
    exporter: Literal["auto", "dynamo", "torchscript"] = "auto"
    opset: int = Field(default=18, ge=13, le=23)
    stock: bool = False
    tolerance: float = Field(default=1e-3, gt=0)

    def __call__(self, model: TorchModel, context: Context) -> OnnxModel:
        """Write model.onnx into the context's folder.

        Raises:
            StepError: no exporter takes the model, or the file differs from torch; the worst output is named.
        """
        feeds = sized_feeds(context.calibrate, model.inputs, largest(model.inputs, context))
        session = TorchSession(model.module, model.inputs, None)
        wanted = session.run(feeds)
        names = list(wanted)
        failures: list[str] = []
        given, known = _given(model)
        if self.exporter not in ("auto", *known):  # torch would take the other one and not say so
            raise StepError(f"this program is exported by {known[0]} alone: leave out exporter = '{self.exporter}'.")
        for exporter in known if self.exporter == "auto" else (self.exporter,):
            try:
                proto = exported(given, model.inputs, feeds, names, context.folder, self.opset, exporter, self.stock)
                written = write_onnx(proto, context.folder / "model.onnx")
                check_equal(written, session, context, self.tolerance)
            except StepError as error:
                failures.append(f"{exporter}: {error}")
            except Exception as error:  # exporters raise whatever the first op that they lack raises
                log.exception("the exporter %s failed", exporter)
                failures.append(f"{exporter}: {cause(error)}{_where(error)}")
            else:
                context.notes.extend(f"export: {failure}; another exporter was taken" for failure in failures)
                context.notes.append(f"exported by torch.onnx, {exporter}, opset {_opset(proto)}")
                return written
        raise StepError("torch's exporters could not do it. " + " / ".join(failures))


def _given(model: TorchModel) -> tuple[Any, tuple[str, ...]]:
    """What torch's exporters are given, and those that take it: a `.pt2` as it is, not captured once more."""
    import torch

    if isinstance(model.module, torch.jit.ScriptModule):
        return model.module, ("torchscript",)
    if model.file:
        return _exported.read(model.file), ("dynamo",)
    return model.module, ("dynamo", "torchscript")


def exported(
    module: "nn.Module | ExportedProgram", inputs: Sequence[TensorSpec], feeds: Mapping[str, Array],
    outputs: Sequence[str], folder: Path, opset: int, exporter: str = "dynamo", stock: bool = False,
) -> Any:  # fmt: skip
    """A module as an ONNX graph, by one of torch's exporters; raises what that raises.

    Args:
        module: in eval mode, or captured: a program has its dynamic axes in it.
        inputs: with the axes that are dynamic.
        feeds: to trace with.
        outputs: their names.
        folder: for what is temporary.
        opset: of the graph.
        exporter: `dynamo`, or `torchscript`, which traces.
        stock: as the step's.
    """
    import onnx
    import torch

    arguments = tuple(tensors(feeds, tuple(inputs)))
    names = [spec.name for spec in inputs]
    axes = [{i: name for i, name in enumerate(spec.shape) if isinstance(name, str)} for spec in inputs]
    with tempfile.TemporaryDirectory(dir=folder) as inner, warnings_to_log(), torch.no_grad():
        path = Path(inner) / "model.onnx"  # by path, since a model over 2 GB cannot be passed in one piece
        if exporter == "dynamo":
            torch.onnx.export(
                module, arguments, str(path), dynamo=True, opset_version=opset, verbose=False,
                input_names=names, output_names=list(outputs),
                dynamic_shapes=dynamic_shapes(module, inputs) if isinstance(module, torch.nn.Module) else None,
                custom_translation_table=None if stock else translations(),
            )  # fmt: skip
        else:
            dynamic = {name: each for name, each in zip(names, axes, strict=True) if each}
            first_axis = next((each[0] for each in axes if 0 in each), None)
            if first_axis:
                dynamic |= {name: {0: first_axis} for name in outputs}
            torch.onnx.export(
                module, arguments, str(path), dynamo=False, opset_version=min(opset, 20),
                input_names=names, output_names=list(outputs), dynamic_axes=dynamic,
            )  # fmt: skip
        proto = onnx.load(path)
    _name_axes(proto, inputs)
    return proto


def dynamic_shapes(module: "nn.Module", inputs: Sequence[TensorSpec]) -> Any:
    """What torch.export wants, in the form of the arguments: one entry for each of *args, if forward has them."""
    import inspect

    import torch

    dynamic = torch.export.Dim.DYNAMIC
    axes = tuple({i: dynamic for i, name in enumerate(spec.shape) if isinstance(name, str)} for spec in inputs)
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return (axes,) if kinds and kinds[0] is inspect.Parameter.VAR_POSITIONAL else axes


def largest(inputs: tuple[TensorSpec, ...], context: Context) -> int:
    """The batch to trace with: 2 where it is dynamic, since 1 is special to the exporter."""
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    return first if isinstance(first, int) else 2


def _name_axes(proto: Any, inputs: Sequence[TensorSpec]) -> None:
    """The user's axis names on the inputs, instead of the exporter's s77."""
    renamed = {}
    for value, spec in zip(proto.graph.input, inputs, strict=True):
        for dim, name in zip(value.type.tensor_type.shape.dim, spec.shape, strict=True):
            if isinstance(name, str) and dim.dim_param:
                renamed[dim.dim_param] = name
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in renamed:
                dim.dim_param = renamed[dim.dim_param]


def _opset(proto: Any) -> int:
    return max(int(entry.version) for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def _where(error: BaseException) -> str:
    """The op that an exporter stumbled over and the line of the user's code that it comes from, as far as known.

    Both exporters raise where they hold the node of their graph, and say nothing of it.
    """
    import torch

    op, sources = "", ""
    last: BaseException | None = error
    while last is not None:
        for frame, _ in traceback.walk_tb(last.__traceback__):
            node = frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node):
                op, sources = str(node.target), str(node.meta.get("stack_trace") or "")
            elif isinstance(node, torch._C.Node):
                op, sources = node.kind(), str(node.sourceRange())
        last = last.__cause__
    lines = [(a or c, b or d) for a, b, c, d in _LINE.findall(sources or str(error))]
    # the one of torch stands outermost first, the other innermost first; a layer of torch's own is not the user's code
    own = [(file, line) for file, line in lines if "/site-packages/" not in file and not file.startswith("code/")]
    place = own[-1] if '", line' in sources else own[0] if own else None
    said = f"the op {op}" if op else ""
    said += f"{', which comes' if op else 'it comes'} from {place[0]}:{place[1]}" if place else ""
    return f" ({said})" if said else ""


def cause(error: BaseException) -> str:
    """Of the innermost cause, without the colours that torch's exporter puts into its messages."""
    while error.__cause__ is not None:
        error = error.__cause__
    words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
    return f"{type(error).__name__}: {words[:400] or 'no reason given'}"
