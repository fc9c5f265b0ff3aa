"""What becomes of a model's raw outputs: probabilities, the best classes, or boxes without doubles.

In a bundle's graph the engine does it (`fold_postprocessing` puts it there); the same in numpy says what is meant, and
gives an original's outputs the form that they are compared in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Kind = Literal["softmax", "argmax", "top_k", "boxes"]
KINDS = ("softmax", "argmax", "top_k", "boxes")
SCORES = "_scores"  # of the best classes: an output beside them, of this name
SAME = 0.5  # intersection over union, from which on two boxes are the same object


@dataclass(frozen=True)
class Decoding:
    """One output, or a pair of boxes and scores, and what it becomes. Classes are on axis 1, of boxes on the last.

    softmax: probabilities, of the same shape. argmax: class numbers, int64, without the axis. top_k: the numbers of
    the `count` best classes, int64, best first, in its place, and their scores in `NAME_scores`. boxes: the best
    class of each box; boxes of one class that overlap a better one are dropped; (N, count, 6) float32: left, top,
    right, bottom, score, class, best first, score 0 behind the last.

    Attributes:
        of: names of the raw outputs; of boxes either one (N, M, 4 + classes), or boxes (N, M, 4) and scores.
        count: how many classes or boxes.
        probabilities: the scores of the best classes are those of a softmax.
        transposed: boxes are (N, 4 + classes, M).
        corners: boxes are left, top, right, bottom; else centre, width and height.
        objectness: a number between box and scores, which scores are multiplied by.
        threshold: boxes of smaller scores are dropped.
        overlap: intersection over union, above which the worse of two boxes is dropped.
    """

    kind: Kind
    of: tuple[str, ...]
    count: int = 5
    probabilities: bool = False
    transposed: bool = False
    corners: bool = False
    objectness: bool = False
    threshold: float = 0.25
    overlap: float = 0.45

    def apply(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs with the raw ones replaced, in their order; as they are where a raw one is missing.

        Args:
            outputs: by name, the first axis of each samples.
        """
        if not set(self.of) <= set(outputs):
            return dict(outputs)
        made = self._made(*(outputs[name] for name in self.of))
        found: dict[str, Array] = {}
        for name, value in outputs.items():
            found |= made if name == self.of[0] else {} if name in self.of else {name: value}
        return found

    def _made(self, raw: Array, scores: Array | None = None) -> dict[str, Array]:
        name = self.of[0]
        if self.kind == "softmax":
            return {name: _softmax(raw)}
        if self.kind == "argmax":
            return {name: raw.argmax(1)}
        if self.kind == "top_k":
            best = np.argsort(-raw, 1, kind="stable")[:, : self.count]
            values = _softmax(raw) if self.probabilities else raw
            return {name: best, name + SCORES: np.take_along_axis(values, best, 1)}
        if self.transposed:
            raw, scores = raw.swapaxes(1, 2), None if scores is None else scores.swapaxes(1, 2)
        boxes = raw[..., :4].astype(np.float32)
        scores = raw[..., 4:] if scores is None else scores
        if self.objectness:
            scores = scores[..., 1:] * scores[..., :1]
        if not self.corners:
            half = boxes[..., 2:] / 2
            boxes = np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)
        found = np.zeros((len(boxes), self.count, 6), np.float32)
        for place, (own, marks) in enumerate(zip(boxes, scores, strict=True)):
            kept = self._kept(own, marks)[: self.count]
            found[place, : len(kept)] = np.concatenate(
                [own[kept], marks.max(1)[kept, None], marks.argmax(1)[kept, None]], 1
            )
        return {name: found}

    def _kept(self, boxes: Array, scores: Array) -> Array:
        """Which boxes (M, 4) stay, the best first."""
        best, classes = scores.max(1), scores.argmax(1)
        order = np.argsort(-best, kind="stable")
        order = order[best[order] > self.threshold]
        kept: list[int] = []
        while len(order):
            first, order = int(order[0]), order[1:]
            kept.append(first)
            doubles = (classes[order] == classes[first]) & (_overlaps(boxes[first], boxes[order]) > self.overlap)
            order = order[~doubles]
        return np.array(kept, int)

    def difference(self, name: str, got: Array, wanted: Array) -> float | None:
        """The share of what was wanted that is not there, 0 to 1: of class numbers, or of the scores of the objects.

        None for an output of numbers, and for one that this does not make: their norm says it.
        """
        if got.shape != wanted.shape or name != self.of[0] or self.kind == "softmax":
            return None
        if self.kind == "argmax":
            return float((got != wanted).mean())
        if self.kind == "top_k":
            return float((got[:, :, None] != wanted[:, None]).all(1).mean())
        lost = total = 0.0
        for mine, theirs in zip(got, wanted, strict=True):
            for first, second in ((theirs, mine), (mine, theirs)):
                total += float(first[:, 4].sum())
                for box in first[first[:, 4] > 0]:
                    alike = second[(second[:, 4] > 0) & (second[:, 5] == box[5])]
                    if not (_overlaps(box[:4], alike[:, :4]) >= SAME).any():
                        lost += float(box[4])
        return lost / total if total else 0.0

    def to_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {**asdict(self), "of": list(self.of)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Decoding":
        """The inverse of `to_json`; raises KeyError, TypeError or ValueError where the data is none."""
        found = cls(**{**data, "of": tuple(data["of"])})
        if found.kind not in KINDS or not found.of or not all(type(name) is str for name in found.of):
            raise ValueError(f"{found.kind!r} of {found.of!r} is no decoding")
        for name, kind in (("count", int), ("threshold", float), ("overlap", float)):
            if type(getattr(found, name)) is not kind:
                raise ValueError(f"{name} is {getattr(found, name)!r}")
        switches = found.probabilities, found.transposed, found.corners, found.objectness
        if found.count < 1 or not all(type(one) is bool for one in switches):
            raise ValueError(f"{found} is no decoding")
        return found


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def _overlaps(box: Array, others: Array) -> Array:
    """Intersection over union of a box (4,) with others (K, 4)."""
    inner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    both = inner.clip(0).prod(1)
    size = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1)
    return np.asarray(both / np.maximum(size - both, 1e-12))
