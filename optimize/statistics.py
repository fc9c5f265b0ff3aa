"""Is the candidate less accurate than the original? Paired intervals of the drop, and the verdict."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtime.tensors import Array

Z90 = 1.6448536269514722  # one-sided 95 %, two-sided 90 %
RESAMPLES = 2000
_MOST_SAMPLES = 10**8

AccuracyVerdict = Literal["within", "exceeds", "cannot tell"]


@dataclass(frozen=True)
class Drop:
    """Original minus candidate, so that positive is worse, in the metric's unit.

    Attributes:
        low: one-sided 95 % bound.
        high: one-sided 95 % bound.
        changed: p value of exact McNemar: is there a change at all. None for metrics that are not right-or-wrong.
    """

    value: float
    low: float
    high: float
    samples: int
    changed: float | None


def paired_drop(
    original: Array, candidate: Array, finish: Callable[[Array], float], higher_is_better: bool, seed: int = 0
) -> Drop:
    """The drop of one candidate, from the statistics of the same samples in the same order.

    Args:
        original: (samples, k), what the metric's `update` gave.
        candidate: of the same shape.
        finish: the metric's own.
        higher_is_better: the metric's own.
        seed: of the bootstrap.

    Right-or-wrong metrics (k = 1, each 0 or 1) get Tango's interval; the rest a percentile bootstrap over samples.
    """
    n = len(original)
    sign = 1.0 if higher_is_better else -1.0
    value = sign * (finish(original) - finish(candidate))
    if original.shape[1] == 1 and bool(np.isin(original, (0, 1)).all() and np.isin(candidate, (0, 1)).all()):
        lost = int(np.sum((original == 1) & (candidate == 0)))
        won = int(np.sum((original == 0) & (candidate == 1)))
        if not higher_is_better:
            lost, won = won, lost
        low, high = tango(lost, won, n)
        return Drop(value, low, high, n, mcnemar(lost, won))
    if np.array_equal(original, candidate, equal_nan=True):
        return Drop(value, 0.0, 0.0, n, None)
    random = np.random.default_rng(seed)
    drops = np.empty(RESAMPLES)
    for i in range(RESAMPLES):
        rows = random.integers(0, n, n)
        drops[i] = sign * (finish(original[rows]) - finish(candidate[rows]))
    low, high = (float(bound) for bound in np.quantile(drops, (0.05, 0.95)))
    return Drop(value, low, high, n, None)


def judge(drop: Drop, max_drop: float) -> AccuracyVerdict:
    """`within`: the upper bound is at most max_drop; `exceeds`: the lower is above it; else it cannot be told."""
    if drop.high <= max_drop:
        return "within"
    return "exceeds" if drop.low > max_drop else "cannot tell"


def samples_that_tell(drop: Drop, max_drop: float, lost: int | None = None, won: int | None = None) -> int | None:
    """How many samples would turn `cannot tell` into a verdict, were they like those seen; None where none would.

    With `lost` and `won` (discordant pairs) Tango's interval is solved for; else it narrows with the square root.
    """
    if math.isclose(drop.value, max_drop):
        return None
    if lost is None or won is None:
        bound = drop.high if drop.value < max_drop else drop.low
        needed = drop.samples * ((bound - drop.value) / (max_drop - drop.value)) ** 2
        return math.ceil(needed) if needed < _MOST_SAMPLES else None

    def tells(n: int) -> bool:
        scale = n / drop.samples
        low, high = tango(lost * scale, won * scale, n)
        return high <= max_drop or low > max_drop

    low, high = drop.samples, drop.samples * 2
    while not tells(high):
        low, high = high, high * 2
        if high > _MOST_SAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if tells(middle) else (middle, high)
    return high


def tango(lost: float, won: float, n: int) -> tuple[float, float]:
    """Score interval of a difference of paired proportions, (lost - won) / n, one-sided 95 % each way.

    Tango (1998), Statistics in Medicine 17, 891-908: honest where there are no discordant pairs at all.
    `lost` and `won` may be fractions, for planning.
    """

    def score(d: float) -> float:
        a, b, c = 2.0 * n, -lost - won + (2.0 * n - lost + won) * d, -won * d * (1 - d)
        q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * q + d * (1 - d))
        distance = lost - won - n * d
        return (
            distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance) if distance else 0.0
        )

    estimate = (lost - won) / n
    return _root(score, Z90, -1.0, estimate), _root(score, -Z90, estimate, 1.0)


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p value of `lost` against `won`, equally likely if nothing changed (McNemar 1947)."""
    n, k = lost + won, min(lost, won)
    tail = sum(math.exp(_log_choose(n, i) - n * math.log(2)) for i in range(k + 1))
    return min(1.0, 2 * tail)


def _root(score: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a falling function takes a value, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > wanted else (low, middle)
    return (low + high) / 2


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
