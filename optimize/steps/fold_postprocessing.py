"""Take what follows the model into the graph: softmax, the best classes, or boxes and the removal of doubles.

The device then gets the answer itself. The graph is made of ONNX's own ops, the outputs are as large whatever is in
the picture, and the step is last: what rounds and repairs looks at raw outputs.
"""

import json
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from optimize.models import DECODING, OnnxModel, write_onnx
from optimize.steps import Context, Settings, name_of
from optimize.steps._graph import captured, fresh
from optimize.verify import batch_sizes, judge, sized_feeds
from runtime.decoding import SCORES, Decoding, Kind
from runtime.engines import relative_error
from runtime.errors import InputError, StepError
from runtime.tensors import TensorSpec

TOLERANCE = 1e-3  # relative, of outputs; the share of class numbers, or of objects by their scores


class Step(Settings):
    """Settings; `runtime.decoding.Decoding` says what each kind makes.

    Attributes:
        kind: what to make of the output.
        output: its name, where the model has several; of boxes with scores of their own, the boxes.
        scores: the output with the scores of boxes, where they are one of their own.
        k: how many of the best classes.
        probabilities: the scores of the best classes become probabilities.
        boxes: `corners` (left, top, right, bottom) or `centre` (and width, height).
        layout: `rows` (a box a row), `columns`, or `auto`: the shorter of the two axes belongs to a box.
        objectness: a number between box and scores, which scores are multiplied by.
        threshold: boxes of smaller scores are dropped.
        overlap: intersection over union, above which the worse of two boxes of one class is dropped.
        most: boxes in the output, the best.
    """

    exact: ClassVar[bool] = True
    last: ClassVar[bool] = True
    kind: Kind | None = None
    output: str | None = None
    scores: str | None = None
    k: int = Field(default=5, ge=1)
    probabilities: bool = False
    boxes: str = Field(default="centre", pattern="^(centre|corners)$")
    layout: str = Field(default="auto", pattern="^(auto|rows|columns)$")
    objectness: bool = False
    threshold: float = Field(default=0.25, ge=0)
    overlap: float = Field(default=0.45, ge=0, le=1)
    most: int = Field(default=100, ge=1)

    @model_validator(mode="after")
    def _told(self) -> "Step":
        if self.kind is None:
            raise ValueError("give kind: softmax, argmax, top_k or boxes")
        return self

    def check_order(self, before: tuple[Settings, ...], after: tuple[Settings, ...]) -> None:
        """Nothing can look behind it."""
        if after:
            raise InputError(f"the step '{name_of(after[0])}' is behind 'fold_postprocessing', which comes last.")

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx that gives the answer, seen to be the one that numpy makes of the raw outputs.

        Raises:
            StepError: there is no such output, it has another shape than the kind needs, or the answers differ.
        """
        import onnx

        proto = onnx.load(model.path)
        decoding = self.decoding(model.specs.outputs)
        known = {spec.name: spec for spec in model.specs.outputs}
        _append(proto, decoding, [known[name] for name in decoding.of])
        proto.metadata_props.add(key=DECODING, value=json.dumps(decoding.to_json()))
        written = write_onnx(proto, context.folder / "model.onnx")
        _check(model, written, decoding, context)
        context.notes.append(f"the model gives {', '.join(map(str, written.specs.outputs))}")
        return written

    def decoding(self, outputs: tuple[TensorSpec, ...]) -> Decoding:
        """What becomes of these outputs.

        Raises:
            StepError: there is no such output, or it has another shape than the kind needs.
        """
        raw = _one(outputs, self.output, "output")
        assert self.kind is not None  # `_told` saw to it
        if self.kind != "boxes":
            if len(raw.shape) < 2 or not raw.dtype.startswith("float"):
                raise StepError(f"{raw} is no output of class scores, (samples, classes, ...)")
            classes = raw.shape[1]
            if self.kind == "top_k" and not (isinstance(classes, int) and classes >= self.k):
                raise StepError(f"{raw} has no {self.k} classes; set k")
            return Decoding(self.kind, (raw.name,), self.k, probabilities=self.probabilities)
        marks = _one(outputs, self.scores, "scores") if self.scores else None
        places = [axis for axis in (1, 2) if len(raw.shape) == 3 and isinstance(raw.shape[axis], int)]
        if len(places) != 2 or not raw.dtype.startswith("float"):
            raise StepError(f"{raw} is no output of boxes, (samples, boxes, 4 + classes) with the sizes of both known")
        rows, columns = int(raw.shape[1]), int(raw.shape[2])
        turned = rows < columns if self.layout == "auto" else self.layout == "columns"
        count, width = (columns, rows) if turned else (rows, columns)
        if marks:
            fits = len(marks.shape) == 3 and marks.shape[2 if turned else 1] == count
            wide = marks.shape[1 if turned else 2] if fits else 0
            width = width + wide if width == 4 and isinstance(wide, int) else 0
        if width < 5 + self.objectness:
            said = f"{raw} and {marks}" if marks else str(raw)
            raise StepError(f"{said}: no boxes of four numbers with scores of classes; see `layout` and `scores`")
        names = (raw.name, marks.name) if marks else (raw.name,)
        return Decoding(
            "boxes", names, min(self.most, count), transposed=turned, corners=self.boxes == "corners",
            objectness=self.objectness, threshold=self.threshold, overlap=self.overlap,
        )  # fmt: skip


def _one(outputs: tuple[TensorSpec, ...], name: str | None, setting: str) -> TensorSpec:
    asked = [spec for spec in outputs if name in (None, spec.name)]
    if len(asked) != 1:
        known = ", ".join(map(str, outputs))
        raise StepError(f"the model gives {known}; name one of them with {setting} = '...'")
    return asked[0]


class _Tail:
    """Nodes that are put behind a graph."""

    def __init__(self, proto: Any) -> None:
        self.graph = proto.graph
        self.taken = {name for node in proto.graph.node for name in (node.name, *node.input, *node.output)}
        self.taken |= {tensor.name for tensor in proto.graph.initializer}

    def constant(self, value: Any, dtype: type = np.int64) -> str:
        """The name of a constant."""
        from onnx import numpy_helper

        name = fresh("decode_constant", self.taken)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, *inputs: str, outputs: tuple[str, ...] | int = 1, **attributes: Any) -> list[str]:
        """The names of a node's outputs."""
        import onnx

        label = fresh(f"decode_{op}", self.taken)
        made = [fresh(f"{label}_out", self.taken) for _ in range(outputs)] if isinstance(outputs, int) else outputs
        self.graph.node.append(onnx.helper.make_node(op, inputs, made, label, **attributes))
        return list(made)


def _append(proto: Any, decoding: Decoding, raw: list[TensorSpec]) -> None:
    """Put a decoding behind a graph, in place; its output has the name of the first raw one."""
    import onnx

    tail, name = _Tail(proto), decoding.of[0]
    inner = {output: fresh(f"{output}__raw", tail.taken) for output in decoding.of}
    for node in proto.graph.node:
        if seen := captured(node) & set(inner):
            raise StepError(f"'{node.name}' ({node.op_type}) reads the output '{min(seen)}' in a graph of its own")
        for names in (node.input, node.output):
            names[:] = [inner.get(one, one) for one in names]
    for value in proto.graph.value_info:
        value.name = inner.get(value.name, value.name)
    shape, kind = raw[0].shape, raw[0].dtype
    if decoding.kind == "softmax":
        tail.node("Softmax", inner[name], outputs=(name,), axis=1)
        made = [(name, kind, shape)]
    elif decoding.kind == "argmax":
        tail.node("ArgMax", inner[name], outputs=(name,), axis=1, keepdims=0)
        made = [(name, "int64", (shape[0], *shape[2:]))]
    elif decoding.kind == "top_k":
        values = tail.node("Softmax", inner[name], axis=1)[0] if decoding.probabilities else inner[name]
        tail.node("TopK", values, tail.constant([decoding.count]), outputs=(name + SCORES, name), axis=1)
        best = (shape[0], decoding.count, *shape[2:])
        made = [(name, "int64", best), (name + SCORES, kind, best)]
    else:
        numbers = raw[-1].shape[1 if decoding.transposed else 2]
        assert isinstance(numbers, int)  # `decoding` looked
        classes = numbers if len(raw) == 2 else numbers - 4 - decoding.objectness
        _boxes(tail, decoding, [inner[one] for one in decoding.of], classes)
        made = [(name, "float32", (shape[0], decoding.count, 6))]
    told = [
        onnx.helper.make_tensor_value_info(one, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), sizes)
        for one, dtype, sizes in made
    ]
    kept = list(proto.graph.output)
    del proto.graph.output[:]
    for old in kept:
        proto.graph.output.extend(told if old.name == name else [old] if old.name not in decoding.of else [])


def _boxes(tail: _Tail, decoding: Decoding, raw: list[str], classes: int) -> None:
    """Scores (N, M, C) and corners (N, M, 4), the best class of each, NonMaxSuppression, then the best of the kept."""
    import onnx

    raw = [tail.node("Cast", one, to=onnx.TensorProto.FLOAT)[0] for one in raw]  # NonMaxSuppression takes no other
    if decoding.transposed:
        raw = [tail.node("Transpose", one, perm=[0, 2, 1])[0] for one in raw]

    def part(value: str, start: int, end: int = np.iinfo(np.int64).max) -> str:
        begin, stop, axis = (tail.constant([number]) for number in (start, end, 2))
        return tail.node("Slice", value, begin, stop, axis)[0]

    boxes = part(raw[0], 0, 4)
    scores = raw[1] if len(raw) == 2 else part(raw[0], 4)
    if decoding.objectness:
        (scores,) = tail.node("Mul", part(scores, 1), part(scores, 0, 1))
    if not decoding.corners:
        middle = part(boxes, 0, 2)
        (half,) = tail.node("Mul", part(boxes, 2, 4), tail.constant(0.5, np.float32))
        near, far = tail.node("Sub", middle, half)[0], tail.node("Add", middle, half)[0]
        (boxes,) = tail.node("Concat", near, far, axis=2)
    best, number = tail.node("TopK", scores, tail.constant([1]), outputs=2, axis=2)
    (turned,) = tail.node("Transpose", scores, perm=[0, 2, 1])
    # a box counts for its best class alone, the first of equal ones: its other scores are 0
    (highest,) = tail.node("Transpose", number, perm=[0, 2, 1])
    (mine,) = tail.node("Equal", tail.constant(np.arange(classes).reshape(1, -1, 1)), highest)
    (own,) = tail.node("Where", mine, turned, tail.constant(0, np.float32))
    (kept,) = tail.node(
        "NonMaxSuppression", boxes, own, tail.constant([decoding.count]),
        tail.constant([decoding.overlap], np.float32), tail.constant([decoding.threshold], np.float32),
    )  # fmt: skip
    (place,) = tail.node("Gather", kept, tail.constant([0, 2]), axis=1)
    (flat,) = tail.node("Squeeze", best, tail.constant([2]))
    (zero,) = tail.node("Mul", flat, tail.constant(0, np.float32))
    (score,) = tail.node("ScatterND", zero, place, tail.node("GatherND", flat, place)[0])
    top, index = tail.node("TopK", score, tail.constant([decoding.count]), outputs=2, axis=1)
    (column,) = tail.node("Unsqueeze", index, tail.constant([2]))
    (wide,) = tail.node("Cast", number, to=onnx.TensorProto.FLOAT)
    (marks,) = tail.node("Unsqueeze", score, tail.constant([2]))
    (table,) = tail.node("Concat", boxes, marks, wide, axis=2)
    # not GatherND with batch_dims, behind which OpenVINO 2026.4 computes an int8 model wrongly
    (every,) = tail.node("Expand", column, tail.constant([1, 1, 6]))
    (picked,) = tail.node("GatherElements", table, every, axis=1)
    (there,) = tail.node("Greater", top, tail.constant(0, np.float32))
    (mask,) = tail.node("Unsqueeze", there, tail.constant([2]))
    tail.node("Where", mask, picked, tail.constant(0, np.float32), outputs=(decoding.of[0],))


def _check(model: OnnxModel, written: OnnxModel, decoding: Decoding, context: Context) -> None:
    before, after = judge(model), judge(written)
    for size in batch_sizes(model.specs.inputs, context.axes):
        feeds = sized_feeds(context.calibrate, model.specs.inputs, size)
        wanted, got = decoding.apply(before.run(feeds)), after.run(feeds)
        error, name = relative_error(got, wanted, decoding)
        if not error <= TOLERANCE:
            raise StepError(f"at batch {size} the output '{name}' differs by {error:.2g} from what numpy makes of it")
