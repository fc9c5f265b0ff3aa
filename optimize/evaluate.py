"""Accuracy of many contenders on the same samples, in one pass over the data, each in a process of its own."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np

from optimize.answers import Answers
from optimize.data import Batch, Split, resized
from optimize.metrics import Metric, Rows, first
from optimize.report import Detail
from optimize.streams import frame_labels, frames
from runtime.contender import Contender, Worker, start_together
from runtime.errors import Error, InputError, WorkError
from runtime.tensors import Array

FIRST_LOOK = 128  # samples, after which a contender may be given up
TURN_S, TURN_BYTES, TURN_MOST = 2.0, 2**26, 32  # of all contenders' turns, of what is held meanwhile, batches in one


@dataclass(frozen=True)
class Scores:
    """What each contender's answers came to.

    Attributes:
        statistics: by name, samples in the order of the data.
        details: by name, how the answers differ from the original's.
        failed: name to reason, of those that did not get through.
        wrong: name to reason, of those that gave NaN or infinity where the original did not.
        given_up: name to reason, of those that were asked no further; their statistics are of the first samples.
        sound: the original gave neither NaN nor infinity, nor is its answer the others' label: what it came to can
            stand for it in a later pass.
    """

    statistics: Mapping[str, Rows]
    details: Mapping[str, Detail]
    failed: Mapping[str, str]
    wrong: Mapping[str, str]
    given_up: Mapping[str, str]
    sound: bool = True


@dataclass(frozen=True)
class _Truth:
    """What the original answered to one batch; nothing where its rows are known, and its answers not asked for.

    Attributes:
        sound: there is neither NaN nor infinity in it.
        own: the data's labels, where the metric looks at them.
        labels: what is compared with.
        rows: how many came before.
    """

    sound: bool
    outputs: Mapping[str, Array]
    own: Array | None
    labels: Array
    rows: int


def evaluate(
    contenders: Sequence[Contender],
    split: Split,
    metric: Metric,
    batch: int,
    *,
    fixed: bool = False,
    known: tuple[str, Rows] | None = None,
    hopeless: Callable[[Rows, Rows], str] | None = None,
    log: Path | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Scores:
    """Run every contender over a split.

    They take turns of several batches: the threads of an engine spin on after its last call and are in the way of the
    next one's, which costs more than a small model's answer.

    Args:
        contenders: the first is the original, unless it is known; its failure is an error.
        split: with the model's names and dtypes.
        metric: what to reduce answers to; one with labels of its own makes them of the original's.
        batch: samples a call.
        fixed: the model takes exactly `batch` samples; the last call is filled up, and its surplus dropped.
        known: the original's name and its rows, of an earlier pass that was sound: it is not asked again, and how the
            others' answers differ from its own is not told.
        hopeless: asked after FIRST_LOOK samples, and after each doubling of them, with the original's rows and a
            contender's: why there is no use in asking it further, or nothing.
        log: where the workers' chatter goes.
        progress: told how many samples are done.

    Raises:
        WorkError: the original failed.
        InputError: the labels do not fit the metric.
    """
    original = known[0] if known else contenders[0].name
    found: dict[str, list[Rows]] = {contender.name: [] for contender in contenders}
    started = start_together(contenders, {}, log, Worker.start)
    workers = {name: one for name, one in started.items() if isinstance(one, Worker)}
    failed = {name: str(one) for name, one in started.items() if not isinstance(one, Worker)}
    wrong: dict[str, str] = {}
    decoding = contenders[0].decoding
    numbers = decoding is None or decoding.kind == "softmax"
    details = {contender.name: Answers(numbers, metric.classes) for contender in contenders}
    given_up: dict[str, str] = {}
    seen, rows, sound = 0, 0, True
    look, turn, batches = FIRST_LOOK, 1, iter(split.batches(batch))
    try:
        if isinstance(error := started.get(original), Error):
            raise error
        while asked := list(islice(batches, turn)):
            begun, truths = time.monotonic(), list[_Truth]()
            for contender, (place, (feeds, labels)) in product(contenders, enumerate(asked)):
                name = contender.name
                if name in failed or name in wrong or name in given_up:
                    continue
                size = len(next(iter(feeds.values())))
                given = resized(feeds, batch) if fixed and size < batch else feeds
                try:
                    outputs = answers(contender, workers[name].run(given), size, batch)
                except (WorkError, InputError) as error:
                    if name == original:
                        raise
                    failed[name] = str(error)
                    continue
                odd = [key for key, v in outputs.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
                if place == len(truths):  # the original's turn, or where it is known the first one's
                    if contender.streaming and labels is not None:
                        labels = frame_labels(labels, size, len(first(outputs)), split.name)
                    own, labels = (None, metric.own(outputs, feeds)) if metric.own else (labels, labels)
                    if labels is None:
                        raise InputError(f"the split '{split.name}' has no labels for some of its samples.")
                    truths.append(_Truth(not odd or bool(known), {} if known else outputs, own, labels, rows))
                    sound = sound and truths[-1].sound
                    rows += len(first(outputs))
                truth = truths[place]
                if odd and truth.sound:
                    wrong[name] = f"its output '{odd[0]}' has NaN or infinity where the original's has none"
                    continue
                try:
                    found[name].append(Rows.of(metric.update(outputs, truth.labels)).of_samples(size))
                except InputError as error:  # the original passed with these labels, so it is not theirs
                    if name == original:
                        raise
                    failed[name] = str(error)
                    continue
                if truth.outputs and truth.sound and len(first(truth.outputs)) == len(truth.labels):
                    details[name].update(truth.outputs, outputs, truth.own, truth.rows)
            seen += sum(len(next(iter(feeds.values()))) for feeds, _ in asked)
            progress(seen)
            turn = _next_turn(turn, time.monotonic() - begun, asked, truths)
            if hopeless is None:
                continue
            if seen < look:
                turn = min(turn, math.ceil((look - seen) / batch))
                continue
            look *= 2
            yardstick = known[1] if known else Rows.joined(found[original])
            for contender in contenders:
                name = contender.name
                if name == original or name in failed or name in wrong or name in given_up:
                    continue
                own_rows = Rows.joined(found[name])
                if reason := hopeless(yardstick.head(len(own_rows)), own_rows):
                    given_up[name] = reason
                    workers.pop(name).close()
    finally:
        for worker in workers.values():
            worker.close()
    kept = {name: Rows.joined(parts) for name, parts in found.items() if name not in failed and name not in wrong}
    told = {name: details[name].finish() for name in kept}
    return Scores({**kept, **dict([known] if known else [])}, told, failed, wrong, given_up, sound and not metric.own)


def _next_turn(turn: int, seconds: float, asked: Sequence[Batch], truths: Sequence[_Truth]) -> int:
    """How many batches the next turn has, by what this one took."""
    held = sum(one.nbytes for feeds, _ in asked for one in feeds.values())
    held += sum(one.nbytes for truth in truths for one in truth.outputs.values())
    share = min(TURN_S / max(seconds, 1e-9), TURN_BYTES / max(held, 1))
    return min(TURN_MOST, 2 * turn, max(1, int(turn * share)))


def answers(contender: Contender, outputs: Mapping[str, Array], size: int, batch: int) -> dict[str, Array]:
    """The outputs of `size` samples, which may have been filled up to a batch; of recordings with a row a frame.

    What has not the batch along its first axis, the boxes of one picture say, is left whole.
    """
    if size < batch:
        outputs = {name: one[:size] if one.ndim and len(one) == batch else one for name, one in outputs.items()}
    return frames(outputs) if contender.streaming else dict(outputs)
