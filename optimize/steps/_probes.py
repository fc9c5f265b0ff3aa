"""Look into an ONNX graph while real data goes through it: one number a question, never the values themselves.

Each question is a few nodes at the end of which stands a scalar, so that a pass over the data holds one batch at a
time, whatever the number of tensors and of samples.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimize.data import Split, cut, resized
from optimize.models import EXTERNAL_DATA_BYTES
from optimize.steps._graph import opset_of
from runtime.engines import library
from runtime.errors import StepError
from runtime.tensors import Array, Specs

BATCH = 8  # samples a call, where the batch is dynamic


class Probes:
    """Questions to a graph, asked by `ask`, and answered together by `answer`. The graph given is not touched."""

    def __init__(self, proto: Any) -> None:
        import onnx

        self._proto = onnx.ModelProto()
        self._proto.CopyFrom(proto)
        del self._proto.graph.output[:]
        del self._proto.graph.value_info[:]  # may be wrong by now, and is not needed
        self._count = 0

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        """Put one more node into the graph; returns the name of its output."""
        import onnx

        self._count += 1
        name = f"__probe_{self._count}"
        self._proto.graph.node.append(onnx.helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def numbers(self, values: list[int]) -> str:
        """A constant of whole numbers, an `axes` say."""
        import onnx

        self._count += 1
        name = f"__probe_{self._count}"
        self._proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def copy(self, node: Any, x: str, op: str) -> str:
        """The same node over another first input, perhaps with another op; returns the name of its output."""
        self._count += 1
        name = f"__probe_{self._count}"
        twin = self._proto.graph.node.add()
        twin.CopyFrom(node)
        twin.name = name
        twin.op_type = op
        twin.input[0] = x
        del twin.output[:]
        twin.output.append(name)
        return name

    def reduce(self, op: str, x: str, axes: list[int]) -> str:
        """A reduction over some axes, which opsets have in two ways; returns the name of its output."""
        if opset_of(self._proto) >= (13 if op == "ReduceSum" else 18):
            return self.node(op, [x, self.numbers(axes)], keepdims=0)
        return self.node(op, [x], axes=axes, keepdims=0)

    def weights(self, tensors: Iterable[Any], nodes: Iterable[Any]) -> None:
        """More initializers, and nodes that read them: part of another graph whose names are not in this one."""
        self._proto.graph.initializer.extend(tensors)
        self._proto.graph.node.extend(nodes)

    def ask(self, name: str) -> str:
        """Answer with this tensor, as float32; returns the key of the answer."""
        import onnx

        key = self.node("Cast", [name], to=onnx.TensorProto.FLOAT)
        self._proto.graph.output.append(onnx.helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, None))
        return key

    def largest(self, name: str) -> str:
        """Ask for the largest absolute value of a tensor."""
        return self.ask(self.node("ReduceMax", [self.node("Abs", [name])], keepdims=0))

    def finite(self, name: str) -> str:
        """Ask whether a tensor is free of NaN and infinity: 0 where it is, else NaN (infinity minus itself)."""
        import onnx

        wide = self.node("Cast", [name], to=onnx.TensorProto.FLOAT)
        return self.ask(self.node("ReduceSum", [self.node("Sub", [wide, wide])], keepdims=0))

    def answer(
        self, split: Split, specs: Specs, samples: int, folder: Path, fold: np.ufunc = np.maximum
    ) -> dict[str, float]:
        """Of questions that end in a scalar the largest answer over the first samples, by key; NaN where one was NaN.

        `fold` may make something else of the batches' answers.

        Raises:
            StepError: ONNX Runtime cannot run the graph.
        """
        return {key: float(value) for key, value in self.arrays(split, specs, samples, folder, fold).items()}

    def arrays(
        self, split: Split, specs: Specs, samples: int, folder: Path, fold: np.ufunc = np.maximum
    ) -> dict[str, Array]:
        """The same for questions that end in an array of one shape for all batches: a number a channel, say."""
        names = [output.name for output in self._proto.graph.output]
        found: dict[str, Array] = {}
        if not names:
            return {}
        inner = folder / "probes"
        try:
            session = _session(self._proto, inner)
            for feeds in batches(split, specs, samples):
                for name, value in zip(names, session.run(names, feeds), strict=True):
                    wide = value.astype(np.float64)  # sums over many batches
                    found[name] = fold(found[name], wide) if name in found else wide  # keeps NaN, unlike max()
        except Exception as error:  # ONNX Runtime's own exceptions share no base but Exception
            raise StepError(f"the model does not run with the range scan in it: {error}") from error
        finally:
            shutil.rmtree(inner, ignore_errors=True)
        return found


def passes(
    proto: Any, tensors: Sequence[str], split: Split, specs: Specs, samples: int, folder: Path
) -> Iterator[dict[str, Array]]:
    """The tensors themselves, for one sample after the other where the batch is dynamic.

    Raises:
        StepError: ONNX Runtime cannot run the graph.
    """
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    del shown.graph.value_info[:]
    known = {value.name for value in (*shown.graph.input, *shown.graph.output)}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in known)
    made = [name for name in tensors if name not in {value.name for value in shown.graph.input}]
    inner = folder / "passes"
    try:
        session = _session(shown, inner)
        for feeds in batches(split, specs, samples, 1):
            found = dict(zip(made, session.run(made, feeds), strict=True)) if made else {}
            yield {name: found[name] if name in found else feeds[name] for name in tensors}
    except Exception as error:  # ONNX Runtime's own exceptions share no base but Exception
        raise StepError(f"the model does not run with its tensors as outputs: {error}") from error
    finally:
        shutil.rmtree(inner, ignore_errors=True)


def types(proto: Any, folder: Path) -> dict[str, str]:
    """The type of every tensor that a node of the outer graph gives, in ONNX's words: `tensor(float)`.

    ONNX Runtime is asked, because onnx's own inference does not know the ops of other domains.
    """
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    known = {output.name for output in shown.graph.output}
    names = [name for node in shown.graph.node for name in node.output if name and name not in known]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    inner = folder / "types"
    try:
        session = _session(shown, inner)
    except Exception as error:
        raise StepError(f"ONNX Runtime cannot load the model: {error}") from error
    finally:
        shutil.rmtree(inner, ignore_errors=True)
    return {output.name: output.type for output in session.get_outputs()}


def _session(proto: Any, folder: Path) -> Any:
    """The graph with nothing fused, so that every tensor is there as the file says."""
    import onnx

    ort: Any = library("onnxruntime", "onnxruntime")
    folder.mkdir(parents=True, exist_ok=True)
    weights = sum(len(tensor.raw_data) for tensor in proto.graph.initializer)
    onnx.save_model(proto, folder / "graph.onnx", save_as_external_data=weights > EXTERNAL_DATA_BYTES)
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(folder / "graph.onnx"), settings, providers=["CPUExecutionProvider"])


def batches(split: Split, specs: Specs, samples: int, most: int = BATCH) -> Iterator[Mapping[str, Array]]:
    """The first samples, in the model's batch where that is fixed (whole ones, or one that is filled up)."""
    first = specs.inputs[0].shape[0] if specs.inputs and specs.inputs[0].shape else 1
    fixed = first if isinstance(first, int) else None
    seen = 0
    for batch, _ in split.batches(fixed or min(most, samples)):
        size = len(next(iter(batch.values())))
        if fixed and size < fixed:
            if seen:
                return
            batch = resized(batch, fixed, split.axes)
        if not fixed:
            batch, _ = cut((batch, None), 0, samples - seen, split.axes)
        # a model that was cast whole takes float16, the data is still of the original's dtype
        yield {spec.name: spec.given(batch[spec.name]).astype(spec.dtype, copy=False) for spec in specs.inputs}
        seen += size
        if seen >= samples:
            return
