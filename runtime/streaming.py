"""A model with states: what an output gives goes into an input of the next call, by name; they start at zeros."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np

from runtime.errors import EngineError, InputError
from runtime.listing import unknown
from runtime.tensors import Array, Specs, TensorSpec, check_feeds, name_inputs

Run = Callable[[Mapping[str, Array]], dict[str, Array]]


@dataclass(frozen=True)
class Streaming:
    """Which inputs of a model are states.

    Attributes:
        states: input to the output that gives what the next call takes.
        inputs: of one call, the states among them.
    """

    states: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]

    @property
    def given(self) -> tuple[TensorSpec, ...]:
        """The inputs that are no states."""
        return tuple(spec for spec in self.inputs if spec.name not in self.states)

    def holds(self, feeds: Mapping[str, Array]) -> bool:
        """Whether these are one call's, the states among them; else they are a recording's."""
        return self.states.keys() <= feeds.keys()

    def batch_axis(self, spec: TensorSpec) -> int | None:
        """Where a state has the batch, a sample a place; None where it has none.

        Its axis has the name, or the fixed size, of the inputs' first one; or is the one that no input knows.
        """
        first = self.given[0].shape[0]
        if first in spec.shape:
            return spec.shape.index(first)
        known = {size for one in self.given for size in one.shape}
        open_ = [place for place, size in enumerate(spec.shape) if isinstance(size, str) and size not in known]
        return open_[0] if len(open_) == 1 else None

    def zeros(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The states before the first call, whose other inputs these are."""
        sizes: dict[str, int] = {}
        for spec in self.given:
            sizes |= {name: n for name, n in zip(spec.shape, feeds[spec.name].shape, strict=True) if type(name) is str}
        batch = len(feeds[self.given[0].name])
        found = {}
        for spec in self.inputs:
            if spec.name in self.states:
                place = self.batch_axis(spec)
                named = {**sizes, **({str(spec.shape[place]): batch} if place is not None else {})}
                found[spec.name] = np.zeros(spec.sized(named), spec.dtype)
        return found

    def next(self, held: Mapping[str, Array], outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The states after a call; raises EngineError where the model does not give them as it takes them."""
        found = {}
        for name, output in self.states.items():
            value = outputs.get(output)
            if value is None or value.shape != held[name].shape:
                got = f"it gives {', '.join(outputs)}" if value is None else f"it came back as {list(value.shape)}"
                raise EngineError(
                    f"the state '{name}', {list(held[name].shape)}, is to come back as '{output}', and {got}."
                )
            found[name] = value
        return found

    def seen(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs that are no states; all of them where there are no others."""
        inner = set(self.states.values())
        return {name: value for name, value in outputs.items() if name not in inner} or dict(outputs)

    def recorded(self, feeds: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
        """What recordings like these are, (samples, steps, ...); what has a call's own rank is the same at each step.

        Raises:
            InputError: none of them has an axis of time.
        """
        found, timed = [], False
        for spec in self.given:
            extra = np.ndim(feeds[spec.name]) - len(spec.shape) if spec.name in feeds else 1
            timed = timed or (extra == 1 and spec.name in feeds)
            inner: tuple[int | str, ...] = ("steps",) if extra == 1 else ()
            found.append(replace(spec, shape=(spec.shape[0], *inner, *spec.shape[1:])))
        if not timed and all(spec.name in feeds for spec in self.given):
            spec, shape = self.given[0], feeds[self.given[0].name].shape
            wanted = ", ".join(map(str, ("samples", "steps", *spec.shape[1:])))
            raise InputError(
                f"'{spec.name}' has shape {shape} in the data: with states a sample is a recording, ({wanted}); one "
                f"call takes {spec}."
            )
        return tuple(found)

    def steps(self, feeds: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
        """The calls of a batch of recordings, without the states."""
        ranks = {spec.name: len(spec.shape) for spec in self.given}
        timed = {name for name, value in feeds.items() if value.ndim == ranks[name] + 1}
        for step in range(min(feeds[name].shape[1] for name in timed)):
            yield {
                name: np.ascontiguousarray(value[:, step]) if name in timed else value for name, value in feeds.items()
            }

    def unrolled(self, run: Run, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of a batch of recordings, stacked along time, the second axis.

        Raises:
            EngineError: a call failed, or an output changes its shape from step to step.
        """
        stream = Stream(run, self)
        found = [stream.run(step) for step in self.steps(feeds)]
        try:
            return {name: np.stack([one[name] for one in found], 1) for name in found[0]}
        except ValueError as error:  # of AxisError too: an output without the batch
            shapes = {name: [list(one[name].shape) for one in found[:2]] for name in found[0]}
            raise EngineError(f"the outputs of the steps cannot be stacked: {shapes}.") from error

    def before(self, run: Run, feeds: Mapping[str, Array], first: int, every: int) -> dict[str, Array]:
        """What each state was before the steps `first`, `first + every`, ...: by input, stacked in front."""
        stream, kept = Stream(run, self), []
        for step, given in enumerate(self.steps(feeds)):
            if step % every == first % every and step >= first:
                kept.append(stream.states or self.zeros(given))
            stream.run(given)
        return {name: np.stack([one[name] for one in kept]) for name in self.states} if kept else {}

    def to_json(self) -> dict[str, Any]:
        """For another process."""
        return {"states": dict(self.states), "inputs": [spec.to_json() for spec in self.inputs]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Streaming":
        """The inverse of `to_json`."""
        return cls(dict(data["states"]), tuple(TensorSpec.from_json(one) for one in data["inputs"]))


class Stream:
    """One sequence through a model: its states stay here from call to call, and start at zeros.

    Streams of one model run at once; the calls of one stream wait for one another.
    """

    def __init__(self, run: Run, streaming: Streaming) -> None:
        self._run, self._streaming = run, streaming
        self._held: dict[str, Array] = {}
        self._lock = Lock()

    def __call__(self, *args: Any) -> Any:
        """One step: the inputs that are no states, in order, or a dict by name.

        Returns:
            The output that is no state; a tuple of them where there are several.

        Raises:
            InputError: as `Model.run`; the states are as they were.
            EngineError: the engine failed; likewise.
        """
        found = tuple(self.run(name_inputs(self._streaming.given, args)).values())
        return found[0] if len(found) == 1 else found

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """One step by name; the outputs that are no states."""
        with self._lock:
            if not self._held or len(feeds) != len(self._streaming.given):
                check_feeds(self._streaming.given, feeds)
            held = self._held or self._streaming.zeros(feeds)
            outputs = self._run({**held, **feeds})
            self._held = self._streaming.next(held, outputs)
            return self._streaming.seen(outputs)

    @property
    def states(self) -> dict[str, Array]:
        """What the next call gets, by input; nothing before the first."""
        return self._held

    def reset(self) -> None:
        """Begin anew, from zeros."""
        with self._lock:
            self._held = {}


def check_states(states: Mapping[str, str], specs: Specs) -> Streaming | None:
    """See that states can be what is said; None without any. `specs.outputs` is empty where they are not known yet.

    Raises:
        InputError: a name that is none, an output that is taken twice, another dtype or shape than it comes back with,
            or inputs that cannot have an axis of time.
    """
    if not states:
        return None
    inputs = {spec.name: spec for spec in specs.inputs}
    outputs = {spec.name: spec for spec in specs.outputs}
    streaming = Streaming(states, specs.inputs)
    for name, output in states.items():
        if name not in inputs:
            raise InputError(unknown("input for a state", name, inputs))
        if outputs and output not in outputs:
            raise InputError(unknown(f"output for the state '{name}'", output, outputs))
    twice = sorted(output for output in set(states.values()) if list(states.values()).count(output) > 1)
    if twice:
        raise InputError(f"the output '{twice[0]}' is named for several states; each has one of its own.")
    if not streaming.given:
        raise InputError("every input is named as a state; one at least is given at each step.")
    if single := [spec.name for spec in streaming.given if not spec.shape]:
        raise InputError(
            f"the input '{single[0]}' is a single number, which has no axis of time: fix it, in [model.fixed] or by "
            f"--fix {single[0]}=NUMBER."
        )
    for name, output in states.items():
        if outputs and not _agree(inputs[name], outputs[output]):
            raise InputError(f"a state comes back as it went in: {inputs[name]} and {outputs[output]} do not agree.")
        if streaming.batch_axis(inputs[name]) is None and isinstance(streaming.given[0].shape[0], str):
            raise InputError(
                f"the state {inputs[name]} has no axis for the batch, '{streaming.given[0].shape[0]}' of "
                f"'{streaming.given[0].name}': give the input's shape with a batch of 1."
            )
    return streaming


def _agree(one: TensorSpec, other: TensorSpec) -> bool:
    fixed = zip(one.shape, other.shape, strict=False)
    return (
        one.dtype == other.dtype
        and len(one.shape) == len(other.shape)
        and all(a == b for a, b in fixed if isinstance(a, int) and isinstance(b, int))
    )
