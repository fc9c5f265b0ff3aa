"""A loaded model: check each call's arrays, call the engine; many calls at once, in order, or joined to batches."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from time import sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.batching import Batcher, check_joinable, joined
from runtime.bundle import Bundle
from runtime.engines import Session, Starting
from runtime.errors import InputError
from runtime.pre import Preprocessing
from runtime.tensors import NOT_ONE, Array, FeedCheck, TensorSpec, name_inputs

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from runtime.loading import Decision
    from runtime.streaming import Stream

RAW = ("uint8", "int16")  # what pixels and recordings come in

log = logging.getLogger("runtime")


class Live:
    """A session, and a token for each call that is in it; the right to call it ends when another takes its place."""

    def __init__(self, bundle: Bundle, session: Session, decisions: "tuple[Decision, ...]") -> None:
        self.bundle = bundle
        self.session = session
        self.begin: Callable[[Mapping[str, Array]], Callable[[], dict[str, Array]]] | None = (
            session.begin if isinstance(session, Starting) else None
        )
        self.decisions = decisions
        self.calls: deque[None] = deque()

    @cached_property
    def preprocessing(self) -> Preprocessing | None:
        """What the bundle does to raw samples; opened when it is first asked for."""
        return self.bundle.preprocessing()

    def close(self) -> None:
        """Close the session when the calls in it have ended."""
        while self.calls:
            sleep(1e-3)
        self.session.close()


class Model:
    """A bundle's model, ready to run; safe to call from several threads, and to reload or close meanwhile.

    Args:
        live: what `loading.opened` gives.
        again: opens another bundle in the same way, for `reload`.
        streams: how many submitted calls run at once.
        check_nan: refuse inputs with NaN.
        max_batch: with more than 1, submitted calls are joined to batches of up to so many samples.
        max_delay_ms: how long the first of a batch waits for others.

    Raises:
        InputError: calls are to be joined, and the model's cannot be.

    Attributes:
        inputs: what a call takes.
        outputs: what it gives.
    """

    def __init__(
        self, live: Live, again: Callable[[str | Path], Live], *, streams: int, check_nan: bool = False,
        max_batch: int = 1, max_delay_ms: float = 2.0,
    ) -> None:  # fmt: skip
        self._live: Live | None = live
        self._last = live
        self._again = again
        self._streams = streams
        self._joined = (max_batch, max_delay_ms)
        # of every model that is ever taken in here: `reload` sees to it
        self.inputs: tuple[TensorSpec, ...] = live.bundle.specs.inputs
        self.outputs: tuple[TensorSpec, ...] = live.bundle.specs.outputs
        if max_batch > 1:
            check_joinable(self.inputs, self.outputs)
        self._only = self.outputs[0].name if len(self.outputs) == 1 else None
        self._check = FeedCheck(self.inputs, check_nan)
        self._sole = NOT_ONE
        self._pool: ThreadPoolExecutor | None = None
        self._batcher: Batcher | None = None
        self._lock = Lock()

    @property
    def bundle(self) -> Bundle:
        """What was loaded."""
        return self._last.bundle

    @property
    def engine(self) -> str:
        """The name of the engine that runs."""
        return self._last.decisions[-1].engine

    @property
    def decisions(self) -> "tuple[Decision, ...]":
        """Every engine that was considered, in order; the last was taken."""
        return self._last.decisions

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name for inputs by name.

        Args:
            feeds: arrays of the dtypes and shapes of `inputs`.
            out: arrays that outputs are written into, by name, of their very dtype and shape.

        Raises:
            InputError: a name, dtype, rank or fixed dimension does not fit; the engine has not been called.
            EngineError: the engine failed.
        """
        name, dtype, shape = self._sole
        try:  # an engine leaves little of Python in the caches, so what is like the last call's is told in few steps
            value = feeds.get(name)
            same = type(value) is np.ndarray and value.dtype is dtype and value.shape == shape and len(feeds) == 1
        except AttributeError:  # no mapping: the check says it
            same = False
        if not same:
            self._sole = self._check(feeds)
        live = self._entered()
        try:
            return live.session.run(feeds) if out is None else self._into(live, feeds, out)
        finally:
            live.calls.pop()

    def __call__(self, *args: Any, out: Any = None) -> Any:
        """Run on one array, several in the order of the inputs, or a dict by name.

        Args:
            args: the inputs; or raw samples, as `prepare` takes them.
            out: an array for the output; of a model with several, a dict by name.

        Returns:
            The output array; where the model has several, a tuple in the order of `outputs`.
        """
        if isinstance(out, np.ndarray):
            if len(self.outputs) != 1:
                raise InputError(f"the model has {len(self.outputs)} outputs; give out= a dict of arrays by name.")
            out = {self.outputs[0].name: out}
        return self._in_order(self.run(self._feeds(args), out))

    def prepare(self, *args: Any) -> dict[str, Array]:
        """The inputs of raw samples, as they were made of them where the model was evaluated.

        Args:
            args: a raw sample (a picture's path or pixels, a recording, a text), a list of them, or several such in
                the order of the bundle's columns; or a dict by column, which may have inputs that are none of theirs.

        Raises:
            InputError: the bundle has no preprocessing, or a sample cannot be read.
        """
        made = self._last.preprocessing
        if made is None:
            raise InputError(f"this bundle has no preprocessing; give arrays: {', '.join(map(str, self.inputs))}.")
        named = len(args) == 1 and isinstance(args[0], Mapping)
        given = dict(args[0]) if named else dict(zip(made.columns, args, strict=False))
        if any(name not in given for name in made.columns) or (not named and len(args) > len(given)):
            got = ", ".join(map(str, given)) if named else str(len(args))
            raise InputError(f"a raw sample has {', '.join(made.columns)}; got {got}.")
        columns = {name: given.pop(name) for name in made.columns}
        return given | made({name: _samples(value) for name, value in columns.items()})

    def _feeds(self, args: Sequence[Any]) -> dict[str, Any]:
        """The inputs of a call by name, made of raw samples where it is given such."""
        if self._last.preprocessing is None:
            return name_inputs(self.inputs, args)
        if len(args) == 1 and isinstance(args[0], Mapping):
            raw = any(spec.name not in args[0] or _raw(args[0][spec.name], spec) for spec in self.inputs)
        else:
            raw = len(args) != len(self.inputs) or any(map(_raw, args, self.inputs))
        return self.prepare(*args) if raw else name_inputs(self.inputs, args)

    def stream(self) -> "Stream":
        """One sequence of calls, whose states are kept from each to the next.

        There may be several at once, each with states of its own.

        Raises:
            InputError: the bundle names no states.
        """
        from runtime.streaming import Stream, Streaming

        if not self.bundle.states:
            raise InputError(f"{self.bundle.name} has no states; call the model itself.")
        return Stream(self.run, Streaming(self.bundle.states, self.inputs))

    def submit(self, *args: Any) -> "Future[Any]":
        """Call in a thread of the model's own; as many calls run at once as it has streams.

        With `max_batch` above 1 calls are joined to batches; what each is given back is its own samples' answer.
        """
        with self._lock:
            if self._live is None:
                raise InputError("this model is closed; load the bundle again.")
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix="edge-optimize")
                if self._joined[0] > 1:
                    self._batcher = Batcher(self.run, self.inputs, self.outputs, self._pool, *self._joined)
            if self._batcher is None:
                return self._pool.submit(self, *args)
            batcher = self._batcher
        feeds = self._feeds(args)
        self._check(feeds)
        return batcher.submit(feeds, self._in_order)

    def map(self, calls: Iterable[Any], batch: int = 1) -> Iterator[Any]:
        """Answers in the order of the calls, several under way at once; what is not asked for yet is not read yet.

        Args:
            calls: of each an array, a tuple of arrays or a dict.
            batch: join so many calls, of equal shapes, to one.
        """
        waiting: deque[tuple[Callable[[], Any], Callable[[Any], list[Any]]]] = deque()
        for together, parts in joined(calls, batch, self.inputs, self.outputs, self._feeds, self._in_order):
            waiting.append((self._begun(together), parts))
            while len(waiting) > 2 * self._streams:
                end, split = waiting.popleft()
                yield from split(end())
        for end, split in waiting:
            yield from split(end())

    def _begun(self, args: tuple[Any, ...]) -> Callable[[], Any]:
        """Start a call; what is given back waits for its answer. It needs no thread where the engine goes on alone."""
        now = self._live
        if self._joined[0] == 1 and now is not None and now.begin is not None:
            feeds = self._feeds(args)
            self._check(feeds)
            live = self._entered()
            try:
                if live.begin is not None:
                    end = live.begin(feeds)
                    return lambda: self._in_order(end())
            finally:
                live.calls.pop()
        return self.submit(*args).result

    def reload(self, path: str | Path) -> None:
        """Take another bundle's model from the next call on; calls under way finish on the old one.

        Raises:
            InputError: it takes or gives something else, or this model is closed.
            BundleError, NoEngineError: as `load`; the old one goes on.
        """
        new = self._again(path)
        if (new.bundle.specs, new.bundle.states) != (self._last.bundle.specs, self._last.bundle.states):
            new.close()
            said = ", ".join(map(str, (*new.bundle.specs.inputs, *new.bundle.specs.outputs)))
            raise InputError(
                f"{path} has {said}; reload takes a model with the inputs and outputs of this one: {self}."
            )
        with self._lock:
            old = self._live
            if old is not None:
                self._live = self._last = new
        if old is None:
            new.close()
            raise InputError("this model is closed; load the bundle again.")
        old.close()

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """A call of the engine alone, without checks and copies; its time tells what those cost."""
        self._check(feeds)
        return self._open().inside(feeds)

    def precision(self) -> Mapping[str, int]:
        """The number formats that truly run here, each with the number of ops."""
        return self._open().precision()

    @property
    def threads(self) -> int:
        """The threads that one call uses."""
        return self._open().threads

    def close(self) -> None:
        """Finish the calls under way and give the memory back."""
        with self._lock:
            pool, self._pool = self._pool, None
            batcher, self._batcher = self._batcher, None
        if batcher is not None:
            batcher.close()
        if pool is not None:
            pool.shutdown()  # waits for what was submitted
        with self._lock:
            live, self._live = self._live, None
        if live is not None:
            live.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._live is not None else ", closed"
        return (
            f"<Model {self.bundle.name!r} on {self.engine}{state}: "
            f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}>"
        )

    def _open(self) -> Session:
        live = self._live
        if live is None:
            raise InputError("this model is closed; load the bundle again.")
        return live.session

    def _entered(self) -> Live:
        """The live session, with a token of this call in it. Tokens come and go by one atomic operation each."""
        while True:
            live = self._live
            if live is None:
                raise InputError("this model is closed; load the bundle again.")
            live.calls.append(None)
            if live is self._live:
                return live
            live.calls.pop()  # another took its place in between: whoever closes it may not have seen the token

    def _into(self, live: Live, feeds: Mapping[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        known = {spec.name: spec for spec in live.bundle.specs.outputs}
        for name, array in out.items():
            if name not in known or not isinstance(array, np.ndarray) or array.dtype.name != known[name].dtype:
                raise InputError(f"out={name!r} is none of {', '.join(map(str, known.values()))}, or not of its dtype.")
        return live.session.run(feeds, out)

    def _in_order(self, results: Mapping[str, Array]) -> Any:
        return results[self._only] if self._only is not None else tuple(results[spec.name] for spec in self.outputs)


def _samples(value: Any) -> list[Any]:
    """Raw samples of one column: a list, a column as data has it, or one alone."""
    column = isinstance(value, np.ndarray) and value.dtype.kind in "UO" and value.ndim
    return list(value) if column or isinstance(value, list) else [value]


def _raw(value: Any, spec: TensorSpec) -> bool:
    """Whether this is no input: no array, text, or one sample's pixels or sound."""
    if not isinstance(value, np.ndarray) or value.dtype.kind in "UO" or value.ndim < len(spec.shape):
        return True
    return value.dtype.name in RAW and (spec.dtype, len(spec.shape)) != (value.dtype.name, value.ndim)
