"""COCO's average precision of boxes: the mean over classes and over ten overlaps, 0.50 to 0.95 (pycocotools).

The first output is (samples, boxes, 6): left, top, right, bottom, score, class; a score of 0 or less is padding. The
labels are (samples, boxes, 5): left, top, right, bottom, class; a negative class is padding. The matching of answers to
objects is pycocotools' own, a picture at a time; its results are kept as rows, so that pictures can be resampled.
"""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from optimize.metrics import Metric, Outputs, Rows, first
from runtime.errors import InputError
from runtime.tensors import Array

OVERLAPS = 10
RECALLS = np.linspace(0, 1, 101)
MOST = 100  # answers a class and picture, as COCO counts


def _update(outputs: Outputs, labels: Array) -> Rows:
    boxes = first(outputs)
    if boxes.ndim != 3 or boxes.shape[2] != 6:
        raise InputError(f"the output has shape {boxes.shape}; average_precision needs (samples, boxes, 6).")
    if labels.dtype.kind not in "iuf" or labels.ndim != 3 or labels.shape[::2] != (len(boxes), 5):
        raise InputError(f"labels {labels.dtype} {labels.shape}: average_precision needs ({len(boxes)}, boxes, 5).")
    found = [
        _picture(mine[mine[:, 4] > 0], wanted[wanted[:, 4] >= 0]) for mine, wanted in zip(boxes, labels, strict=True)
    ]
    return Rows(np.concatenate(found), np.array([len(rows) for rows in found]))


def _picture(answers: Array, objects: Array) -> Array:
    """Rows of class, score and right-or-wrong at each overlap for answers; of class, NaN and zeros for objects.

    A picture without either has one row, of class -1.
    """
    rows = [np.concatenate([objects[:, 4:], np.full((len(objects), 1), np.nan), np.zeros((len(objects), OVERLAPS))], 1)]
    for part in _matched(answers, objects):
        if part is not None and len(part["dtScores"]):
            right = (part["dtMatches"] > 0).T
            own = np.full((len(right), 1), part["category_id"])
            rows.append(np.concatenate([own, np.array(part["dtScores"])[:, None], right], 1))
    found = np.concatenate(rows).astype(np.float64)
    return found if len(found) else np.array([[-1.0, np.nan, *[0.0] * OVERLAPS]])


def _matched(answers: Array, objects: Array) -> list[Any]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def listed(boxes: Array, column: int) -> list[dict[str, Any]]:
        corner, size = boxes[:, :2].astype(float), (boxes[:, 2:4] - boxes[:, :2]).astype(float)
        return [
            {
                "id": i + 1, "image_id": 1, "category_id": int(boxes[i, column]), "iscrowd": 0,
                "bbox": [*corner[i], *size[i]], "area": float(size[i].prod()), "score": float(boxes[i, 4]),
            }
            for i in range(len(boxes))
        ]  # fmt: skip

    numbers = sorted({*answers[:, 5].astype(int).tolist(), *objects[:, 4].astype(int).tolist()})
    sets = []
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
        for annotations in (listed(objects, 4), listed(answers, 5)):
            made = COCO()
            made.dataset = {
                "images": [{"id": 1}], "annotations": annotations, "categories": [{"id": n} for n in numbers],
            }  # fmt: skip
            made.createIndex()
            sets.append(made)
        judge = COCOeval(*sets, "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [MOST]
        judge.evaluate()
    return list(judge.evalImgs)


def finish(rows: Array, overlaps: int = OVERLAPS) -> float:
    """The figure of these rows, the mean over the first so many overlaps; NaN without an object."""
    return drawn(Rows(rows, np.array([len(rows)])), overlaps)(np.zeros(1, np.int64))


def drawn(rows: Rows, overlaps: int = OVERLAPS) -> Callable[[Array], float]:
    """The figure of pictures drawn from these by their numbers, a picture as often as it is drawn.

    A bootstrap asks for it thousands of times, hence all classes and overlaps at once, ranked once; and of the answers
    the right ones alone, since the best precision at a recall or above it is that of a right one. Of a picture that is
    drawn several times the copies of an answer stand side by side, and the last has the best precision of them.
    """
    values = rows.values
    picture = np.repeat(np.arange(len(rows)), rows.counts)
    answered = ~np.isnan(values[:, 1])
    objects = ~answered & (values[:, 0] >= 0)
    numbers, kind_of_object = np.unique(values[objects, 0], return_inverse=True)
    kept = np.flatnonzero(answered & np.isin(values[:, 0], numbers))
    kept = kept[np.lexsort((-values[kept, 1], values[kept, 0]))]  # class by class, the surest first
    kind = np.searchsorted(numbers, values[kept, 0])
    overlap, right = np.nonzero(values[kept, 2 : 2 + overlaps].T)
    group = overlap * len(numbers) + kind[right]
    begins, group_begins = np.searchsorted(kind, kind), np.searchsorted(group, group)
    apart = 2.0 * group  # more than any precision: groups do not reach into one another

    def figure(samples: Array) -> float:
        times = np.bincount(samples, minlength=len(rows))
        wanted = np.bincount(kind_of_object, times[picture[objects]], len(numbers))
        if not wanted.any():
            return float("nan")
        rank, _ = _counted(times[picture[kept]], begins)
        # of a class of which no object was drawn nothing counts: one picture's rows are drawn apart, in blocks
        right_ones = times[picture[kept[right]]] * (wanted[kind[right]] > 0)
        found, before = _counted(right_ones, group_begins)
        precision = found / np.maximum(rank[right], 1)
        best = np.maximum.accumulate((precision - apart)[::-1])[::-1] + apart
        most = np.maximum(wanted, 1)[kind[right]]
        # how many of the recalls are first reached with so many right ones; the recall of 0 is, with none
        first = np.searchsorted(RECALLS, found / most, "right") - np.searchsorted(RECALLS, before / most, "right")
        reached = (first * best).sum() + best[np.unique(group_begins)].sum()
        return float(reached) / (np.count_nonzero(wanted) * overlaps * len(RECALLS))

    return figure


def _counted(times: Array, begins: Array) -> tuple[Array, Array]:
    """How many there are up to each, it included and not, from where its group begins."""
    upto = np.cumsum(times)
    before = upto - times
    return upto - before[begins], before - before[begins]


METRIC = Metric("average_precision", "share", True, _update, finish, drawn)
