"""Take scaling, normalization and the transpose into the graph, so that the device's input is the camera's picture.

The model then takes uint8, (N, H, W, C). Data stays as the original takes it: what a candidate is given is the picture
that it was made from. The mean is not taken into the first convolution, which would be wrong at a border that is
padded with zeros.
"""

import json
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from optimize.models import FRAME, OnnxModel, write_onnx
from optimize.steps import Context, Settings
from optimize.steps._graph import captured, fresh
from optimize.verify import batch_sizes, judge, sized_feeds
from runtime.engines import relative_error
from runtime.errors import InputError, StepError
from runtime.tensors import Frame, TensorSpec

TOLERANCE = 1e-3  # relative, of outputs


class Step(Settings):
    """Settings: a number of the picture becomes (number * scale - mean) / std.

    Attributes:
        scale: of a number between 0 and 255.
        mean: of each channel in the order of the model's own, or one for all.
        std: likewise.
        input: its name, where the model has several.
    """

    exact: ClassVar[bool] = True
    scale: float = Field(default=1 / 255, gt=0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    input: str | None = None

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        if not all(value > 0 for value in std):
            raise ValueError("each must be above 0")
        return std

    @model_validator(mode="after")
    def _alike(self) -> "Step":
        if len({len(self.mean), len(self.std)} - {1}) > 1 or not self.mean or not self.std:
            raise ValueError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}: one a channel, or one for all"
            )
        return self

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx that takes pictures, seen to answer as before.

        Raises:
            StepError: the input is no float picture, the data was not made so, or the answers differ.
        """
        import onnx

        proto = onnx.load(model.path)
        spec = self._input(model)
        colours = max(len(self.mean), len(self.std))
        first = self._channels_first(spec, colours)
        frame = Frame(self.scale, self.mean, self.std, first)
        _insert(proto, spec, frame)
        proto.metadata_props.add(key=FRAME + spec.name, value=json.dumps(frame.to_json()))
        written = write_onnx(proto, context.folder / "model.onnx")
        self._check(model, written, context)
        (shown,) = [one for one in written.specs.inputs if one.name == spec.name]
        context.notes.append(f"the model takes pictures now: {shown}")
        return written

    def _input(self, model: OnnxModel) -> TensorSpec:
        pictures = [spec for spec in model.specs.inputs if len(spec.shape) == 4 and spec.dtype == "float32"]
        asked = [spec for spec in pictures if self.input in (None, spec.name)]
        if len(asked) != 1:
            known = ", ".join(map(str, model.specs.inputs))
            what = f"no float32 picture '{self.input}'" if self.input else f"{len(asked)} float32 pictures"
            raise StepError(f"the model takes {known}: {what} among it; name one with input = '...'")
        return asked[0]

    def _channels_first(self, spec: TensorSpec, colours: int) -> bool:
        """Which axis the colours are on: the one of their number, where both could be the first."""
        counts = (1, 3, 4) if colours == 1 else (colours,)
        for axis, first in ((1, True), (3, False)):
            if spec.shape[axis] in counts:
                return first
        raise StepError(f"{spec} has no axis of {' or '.join(map(str, counts))} channels, as mean and std have")

    def _check(self, model: OnnxModel, written: OnnxModel, context: Context) -> None:
        before, after = judge(model), judge(written)
        for size in batch_sizes(model.specs.inputs, context.axes):
            try:
                feeds = sized_feeds(context.calibrate, written.specs.inputs, size)
            except InputError as error:
                raise StepError(str(error)) from error
            wanted = before.run(sized_feeds(context.calibrate, model.specs.inputs, size))
            error_, name = relative_error(after.run(feeds), wanted)
            if not error_ <= TOLERANCE:
                raise StepError(f"at batch {size} the output '{name}' differs by {error_:.2g} (relative)")


def _insert(proto: Any, spec: TensorSpec, frame: Frame) -> None:
    """Put what a frame stands for before an input's readers, in place."""
    import onnx
    from onnx import numpy_helper

    taken = {name for node in proto.graph.node for name in (node.name, *node.input, *node.output)}
    taken |= {tensor.name for tensor in proto.graph.initializer}
    wide, turned, scaled, ready = (
        fresh(f"{spec.name}__{what}", taken) for what in ("float", "turned", "scaled", "ready")
    )
    for node in proto.graph.node:
        if spec.name in captured(node):
            raise StepError(f"'{node.name}' ({node.op_type}) reads the input '{spec.name}' in a graph of its own")
        node.input[:] = [ready if name == spec.name else name for name in node.input]
    std, mean = (np.asarray(values, np.float64) for values in (frame.std, frame.mean))
    shape = (-1, 1, 1) if frame.channels_first else (-1,)
    constants = {"factor": frame.scale / std, "shift": -mean / std}
    names = {what: fresh(f"{spec.name}__{what}", taken) for what in constants}
    for what, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(value.astype(np.float32).reshape(shape), names[what]))
    node = onnx.helper.make_node
    nodes = [node("Cast", [spec.name], [wide], fresh(f"{spec.name}_cast", taken), to=onnx.TensorProto.FLOAT)]
    if frame.channels_first:
        turn = fresh(f"{spec.name}_transpose", taken)
        nodes.append(node("Transpose", [wide], [turned], turn, perm=[0, 3, 1, 2]))
    nodes.append(node("Mul", [nodes[-1].output[0], names["factor"]], [scaled], fresh(f"{spec.name}_scale", taken)))
    nodes.append(node("Add", [scaled, names["shift"]], [ready], fresh(f"{spec.name}_shift", taken)))
    for place, one in enumerate(nodes):
        proto.graph.node.insert(place, one)
    (value,) = [one for one in proto.graph.input if one.name == spec.name]
    kind = value.type.tensor_type
    kind.elem_type = onnx.TensorProto.UINT8
    if frame.channels_first:
        dims = [kind.shape.dim[axis] for axis in (0, 2, 3, 1)]
        copies = [type(dim).FromString(dim.SerializeToString()) for dim in dims]
        del kind.shape.dim[:]
        kind.shape.dim.extend(copies)
