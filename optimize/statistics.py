"""Is the candidate less accurate than the original? Paired intervals of the drop, and the verdict."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from optimize.metrics import Drawn, Rows
from runtime.intervals import t_quantile
from runtime.tensors import Array

Z90 = 1.6448536269514722  # one-sided 95 %, two-sided 90 %
RESAMPLES = 2000
_MOST_SAMPLES = 10**8
_AS_NORMAL = 1000  # samples from which on Student's t is the normal distribution

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
    original: Rows | Array, candidate: Rows | Array, finish: Callable[[Array], float], higher_is_better: bool,
    seed: int = 0, resamples: int = RESAMPLES, drawn: Drawn | None = None,
) -> Drop:  # fmt: skip
    """The drop of one candidate, from the statistics of the same samples in the same order.

    Args:
        original: what the metric's `update` gave.
        candidate: of the same samples.
        finish: the metric's own.
        higher_is_better: the metric's own.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        drawn: the metric's own.

    Right-or-wrong metrics (a row a sample, k = 1, each 0 or 1) get Tango's interval; the rest a percentile bootstrap
    over samples, each with all its rows; a single sample, one long recording say, has no spread and is resampled in
    blocks of successive rows (Carlstein 1986, The Annals of Statistics 14, 1171-1179). A resampling of which there is
    no value (one class only, say) is left out.
    """
    original, candidate = Rows.of(original), Rows.of(candidate)
    n = len(original)
    sign = 1.0 if higher_is_better else -1.0
    before, after = original.values, candidate.values
    value = sign * (finish(before) - finish(after))
    if _right_or_wrong(original) and _right_or_wrong(candidate):
        lost = int(np.sum((before == 1) & (after == 0)))
        won = int(np.sum((before == 0) & (after == 1)))
        if not higher_is_better:
            lost, won = won, lost
        low, high = tango(lost, won, n)
        return Drop(value, low, high, n, mcnemar(lost, won))
    if np.array_equal(before, after, equal_nan=True):
        return Drop(value, 0.0, 0.0, n, None)
    if n == 1:
        original, candidate = _in_blocks(original), _in_blocks(candidate)
    parts = len(original)
    before, after = (
        one(rows, finish, drawn, seed, resamples) for one, rows in ((_kept, original), (_resampled, candidate))
    )
    drops = sign * (before - after)
    return Drop(value, *_bounds(drops, parts), n, None)


def _resampled(rows: Rows, finish: Callable[[Array], float], drawn: Drawn | None, seed: int, resamples: int) -> Array:
    """The figure of each resampling of the samples, which are the same ones for as many samples and a seed."""
    random, figure = np.random.default_rng(seed), _figure(rows, finish, drawn)
    return np.array([figure(random.integers(0, len(rows), len(rows))) for _ in range(resamples)])


def _figure(rows: Rows, finish: Callable[[Array], float], drawn: Drawn | None) -> Callable[[Array], float]:
    """Of samples drawn from these by their numbers."""
    return drawn(rows) if drawn else lambda samples: finish(rows.take(samples))


_kept = lru_cache(maxsize=2)(_resampled)  # of the original, with which each candidate is compared


def unpaired_drop(
    original: Rows | Array, candidate: Rows | Array, finish: Callable[[Array], float], higher_is_better: bool,
    seed: int = 0, resamples: int = RESAMPLES, drawn: Drawn | None = None,
) -> Drop:  # fmt: skip
    """As `paired_drop`, of two sets of samples that have nothing to do with each other; both are resampled.

    Shares of right or wrong get Newcombe's interval (1998, Statistics in Medicine 17, 873-890, method 10), which has a
    width where all are right.
    """
    original, candidate = Rows.of(original), Rows.of(candidate)
    n, m = len(original), len(candidate)
    sign = 1.0 if higher_is_better else -1.0
    value = sign * (finish(original.values) - finish(candidate.values))
    if _right_or_wrong(original) and _right_or_wrong(candidate):
        (p, p_low, p_high), (q, q_low, q_high) = (
            _wilson(float(rows.values.mean()), len(rows)) for rows in (original, candidate)
        )
        low = p - q - math.hypot(p - p_low, q_high - q)
        high = p - q + math.hypot(p_high - p, q - q_low)
        return Drop(value, *((low, high) if higher_is_better else (-high, -low)), min(n, m), None)
    random = np.random.default_rng(seed)
    before, after = (_figure(rows, finish, drawn) for rows in (original, candidate))
    drops = [sign * (before(random.integers(0, n, n)) - after(random.integers(0, m, m))) for _ in range(resamples)]
    return Drop(value, *_bounds(np.array(drops), min(n, m)), min(n, m), None)


def _wilson(share: float, n: int) -> tuple[float, float, float]:
    """A share with its score bounds, one-sided 95 % (Wilson 1927)."""
    square = Z90**2 / n
    middle, half = share + square / 2, Z90 * math.sqrt(share * (1 - share) / n + square / (4 * n))
    return share, (middle - half) / (1 + square), (middle + half) / (1 + square)


def _in_blocks(rows: Rows) -> Rows:
    """One sample's rows as blocks of them, about as many as each is long."""
    count = math.isqrt(len(rows.values))
    return Rows(rows.values, np.array([len(part) for part in np.array_split(rows.values, count)]))


def _bounds(drops: Array, n: int) -> tuple[float, float]:
    """The 5 % and 95 % quantiles of those resamplings of n samples that have a value, a little further out.

    A bootstrap of few samples is too narrow, as if Student's t were normal; the expanded percentile interval makes up
    for it (Hesterberg 2015, The American Statistician 69, 371-386).
    """
    told = drops[np.isfinite(drops)]
    if not len(told):
        return -math.inf, math.inf
    z = math.sqrt(n / (n - 1)) * t_quantile(0.95, n - 1) if 1 < n <= _AS_NORMAL else Z90
    share = math.erfc(z / math.sqrt(2)) / 2
    low, high = (float(bound) for bound in np.quantile(told, (share, 1 - share), method="weibull"))
    return low, high


def _right_or_wrong(rows: Rows) -> bool:
    return rows.values.shape[1] == 1 and len(rows.values) == len(rows) and bool(np.isin(rows.values, (0, 1)).all())


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
