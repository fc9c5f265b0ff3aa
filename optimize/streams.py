"""Recordings run through a model with states: their frames as rows, and their steps as samples of their own."""

from collections.abc import Mapping
from pathlib import Path

from optimize.data import Batch, Split, resized
from runtime.contender import Contender, Worker
from runtime.errors import InputError
from runtime.streaming import Streaming
from runtime.tensors import Array

STEPS = 1024  # of a split, that steps may look at


def frames(outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs (samples, steps, ...) with a row a frame, as metrics take them."""
    return {name: value.reshape(-1, *value.shape[2:]) for name, value in outputs.items()}


def frame_labels(labels: Array, samples: int, rows: int, split: str) -> Array:
    """Labels (samples, steps, ...) likewise.

    Raises:
        InputError: they are not one a step.
    """
    if labels.shape[:2] != (samples, rows // samples):
        raise InputError(
            f"the split '{split}' has labels of shape {labels.shape}; with states they are one a step: "
            f"({samples}, {rows // samples}, ...)."
        )
    return labels.reshape(-1, *labels.shape[2:])


def unrolled(original: Contender, split: Split, log: Path | None, most: int = STEPS) -> Split:
    """The steps of a split's recordings, with the states that the original itself has in each.

    Of more than `most` they are `most` at equal distances.

    Raises:
        WorkError: the original failed.
    """
    streaming = original.streaming
    assert streaming is not None  # its callers looked
    size = streaming.given[0].shape[0]
    batch = size if isinstance(size, int) else 1
    total = sum(_steps(feeds, streaming) for feeds, _ in split.batches(batch))
    every, seen, kept = -(-total // most), 0, list[Batch]()
    with Worker.start(original, {}, log) as worker:
        for feeds, labels in split.batches(batch):
            feeds, first = resized(feeds, batch), -seen % every
            states = worker.states(feeds, first, every)
            steps = list(streaming.steps(feeds))
            for place, step in enumerate(range(first, len(steps), every)):
                own = {name: value[place] for name, value in states.items()}
                kept.append((steps[step] | own, None if labels is None else labels[:, step]))
            seen += len(steps)
    axes = {spec.name: streaming.batch_axis(spec) for spec in streaming.inputs if spec.name in streaming.states}
    return Split(split.name, lambda: kept, axes=axes)


def _steps(feeds: Mapping[str, Array], streaming: Streaming) -> int:
    return sum(1 for _ in streaming.steps(feeds))
