"""Calls joined to one: along the first axis of what they give in, and their answers cut out of what comes back."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.tensors import Array, TensorSpec, check_feeds

Feeds = Mapping[str, Array]
Finish = Callable[[Mapping[str, Array]], Any]


def joined(
    calls: Iterable[Any],
    batch: int,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    named: Callable[[Sequence[Any]], Feeds],
    finish: Finish,
) -> Iterator[tuple[tuple[Any, ...], Callable[[Any], list[Any]]]]:
    """The arguments of calls, up to `batch` of equal shapes joined to one, and how to take its answer apart.

    Args:
        calls: of each an argument, or a tuple of them.
        batch: how many.
        inputs: the model's.
        outputs: the model's.
        named: the inputs of a call by name.
        finish: gives an answer the form that the caller expects.

    Raises:
        InputError: the model has a fixed first axis, so that its calls cannot be joined.
    """
    if type(batch) is not int or batch < 1:
        raise InputError(f"batch={batch!r}; it takes a whole number from 1.")
    if batch == 1:
        for call in calls:
            yield call if isinstance(call, tuple) else (call,), _alone
        return
    check_joinable(inputs, outputs)
    group: list[Feeds] = []
    for call in calls:
        feeds = named(call if isinstance(call, tuple) else (call,))
        check_feeds(inputs, feeds)
        if group and (len(group) == batch or _kind(feeds) != _kind(group[0])):
            yield (_together(group, inputs),), _taken_apart(group, inputs, outputs, finish)
            group = []
        group.append(feeds)
    if group:
        yield (_together(group, inputs),), _taken_apart(group, inputs, outputs, finish)


def check_joinable(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise InputError where the first axis is not the same open one of every input and output."""
    axes = {spec.shape[0] if spec.shape else 1 for spec in (*inputs, *outputs)}
    if not inputs or len(axes) != 1 or isinstance(next(iter(axes)), int):
        said = ", ".join(map(str, (*inputs, *outputs)))
        raise InputError(f"calls of this model cannot be joined: its tensors do not share one open first axis: {said}.")


class Batcher:
    """Joins calls that come at about the same time.

    Args:
        run: the model's.
        inputs: the model's.
        outputs: the model's.
        pool: where batches run.
        max_batch: samples in one.
        max_delay_ms: how long its first call waits for others.
    """

    def __init__(
        self, run: Callable[[Feeds], Mapping[str, Array]], inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec], pool: Executor, max_batch: int, max_delay_ms: float,
    ) -> None:  # fmt: skip
        self._run, self._inputs, self._outputs, self._pool = run, inputs, outputs, pool
        self._most, self._delay_s = max_batch, max_delay_ms / 1e3
        self._queue: SimpleQueue[tuple[Feeds, Finish, Future[Any]] | None] = SimpleQueue()
        self._gatherer = Thread(target=self._gather, name="edge-optimize batches", daemon=True)
        self._gatherer.start()

    def submit(self, feeds: Feeds, finish: Finish) -> "Future[Any]":
        """A call whose feeds were checked; `finish` gives its answer the form that the caller expects."""
        future: Future[Any] = Future()
        self._queue.put((feeds, finish, future))
        return future

    def close(self) -> None:
        """Let go on what waits, and end."""
        self._queue.put(None)
        self._gatherer.join()

    def _gather(self) -> None:
        first = self._queue.get()
        while first is not None:
            group, size, until = [first], _size(first[0]), time.monotonic() + self._delay_s
            first, ended = None, False
            while size < self._most:
                try:
                    one = self._queue.get(timeout=max(0.0, until - time.monotonic()))
                except Empty:
                    break
                if one is None:
                    ended = True
                    break
                if size + _size(one[0]) > self._most or _kind(one[0]) != _kind(group[0][0]):
                    first = one  # of the next batch
                    break
                group.append(one)
                size += _size(one[0])
            self._pool.submit(self._answer, group)
            if not ended and first is None:
                first = self._queue.get()

    def _answer(self, group: Sequence[tuple[Feeds, Finish, "Future[Any]"]]) -> None:
        taken = [one for one in group if one[2].set_running_or_notify_cancel()]
        if not taken:
            return
        feeds = [one[0] for one in taken]
        try:
            results = self._run(_together(feeds, self._inputs))
            parts = _cut(feeds, self._inputs, {spec.name: results[spec.name] for spec in self._outputs})
            for (_, finish, future), part in zip(taken, parts, strict=True):
                future.set_result(finish(part))
        except Exception as error:  # each caller gets it
            for _, _, future in taken:
                if not future.done():
                    future.set_exception(error)


def _alone(answer: Any) -> list[Any]:
    return [answer]


def _size(feeds: Feeds) -> int:
    return len(next(iter(feeds.values())))


def _kind(feeds: Feeds) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, np.shape(value)[1:]) for name, value in sorted(feeds.items())]


def _together(group: Sequence[Feeds], inputs: Sequence[TensorSpec]) -> Feeds:
    if len(group) == 1:
        return group[0]
    return {spec.name: np.concatenate([feeds[spec.name] for feeds in group]) for spec in inputs}


def _cut(group: Sequence[Feeds], inputs: Sequence[TensorSpec], results: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Each call's part of the results, as an array of its own: a caller who keeps one keeps no more."""
    if len(group) == 1:
        return [dict(results)]
    ends = np.cumsum([len(feeds[inputs[0].name]) for feeds in group])
    pieces = {name: np.split(value, ends[:-1]) for name, value in results.items()}
    return [{name: pieces[name][index].copy() for name in pieces} for index in range(len(group))]


def _taken_apart(
    group: Sequence[Feeds], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], finish: Finish
) -> Callable[[Any], list[Any]]:
    def parts(answer: Any) -> list[Any]:
        if len(group) == 1:
            return [answer]
        values = answer if len(outputs) > 1 else (answer,)
        results = {spec.name: value for spec, value in zip(outputs, values, strict=True)}
        return [finish(part) for part in _cut(group, inputs, results)]

    return parts
