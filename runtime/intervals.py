"""What a set of timings says: percentiles and ratios with their intervals, and the verdict. numpy alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtime.tensors import Array

LatencyVerdict = Literal["faster", "slower", "no difference", "cannot tell"]

Z95 = 1.959963984540054  # two-sided 95 %
NOISY = 0.10  # of a thing against itself
OUTLIER = 10.0  # times the median of its round


@dataclass(frozen=True)
class Ratio:
    """Time of the base over time of the other: above 1 the other is faster. 95 % interval, two-sided."""

    value: float
    low: float
    high: float
    rounds: int

    @property
    def half_width(self) -> float:
        """Of the interval, as a share: 0.02 is +-2 %."""
        return math.sqrt(self.high / self.low) - 1 if self.low > 0 else math.inf


def centre(calls: Array) -> float:
    """The mean of a round's calls, none counted for more than ten times their median.

    Beside a busy process calls are of two kinds, those that had their cores and those that shared them, and a median
    falls on the one or the other as it happens: 20 % more work looked 8 % slower where calls took 2.5 or 6.5 ms. A mean
    does not jump. A pause of the whole machine, longer than anything an engine does, has no part in it.
    """
    return float(np.mean(np.minimum(calls, OUTLIER * np.median(calls))))


def ratio(base: Sequence[Array], other: Sequence[Array]) -> Ratio:
    """From the timings of the same rounds: Student's t over the rounds' log ratios of `centre`.

    A round is a fresh process of each, so it is the unit that varies; a bootstrap over a handful of processes
    claims more than it knows. With one round the interval is everything.
    """
    logs = np.array([math.log(centre(b) / centre(o)) for b, o in zip(base, other, strict=True)])
    n, middle = len(logs), float(np.mean(logs))
    half = t_quantile(0.975, n - 1) * float(np.std(logs, ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(min(middle + half, 700.0)), n)


def unpaired(base: Sequence[Array], other: Sequence[Array]) -> Ratio:
    """From the timings of two runs, each with rounds of its own: Welch's t over the rounds' log medians.

    A drift of the machine between the runs is not in the interval; where both can be run, measure them together.
    """
    one, two = (np.array([math.log(np.median(calls)) for calls in rounds]) for rounds in (base, other))
    middle, count = float(np.mean(one) - np.mean(two)), min(len(one), len(two))
    half = math.inf
    if count > 1:
        parts = [float(np.var(logs, ddof=1)) / len(logs) for logs in (one, two)]
        whole = sum(parts)
        squares = sum(part**2 / (len(logs) - 1) for part, logs in zip(parts, (one, two), strict=True))
        freedom = max(1, math.floor(whole**2 / squares)) if squares else count  # rounded down: a little wider
        half = t_quantile(0.975, freedom) * math.sqrt(whole)
    return Ratio(math.exp(middle), math.exp(middle - half), math.exp(min(middle + half, 700.0)), count)


def verdict(found: Ratio, margin: float) -> LatencyVerdict:
    """`faster`, `slower`, `no difference` (inside +-margin, a share) or `cannot tell`.

    A margin above `NOISY` is no sameness: where a thing differs so much from itself, what lies inside cannot be told,
    and what is told must lie outside.
    """
    noisy = margin > NOISY
    if found.low >= 1 / (1 + margin) and found.high <= 1 + margin:
        return "cannot tell" if noisy else "no difference"
    if found.low > (1 + margin if noisy else 1):
        return "faster"
    if found.high < (1 / (1 + margin) if noisy else 1):
        return "slower"
    return "cannot tell"


def percentile(samples: Array, share: float) -> tuple[float, float, float]:
    """A percentile (`share` in 0 to 1) and its 95 % interval between order statistics (normal approximation).

    Where the samples are too few for a bound, the bound is the smallest or the largest of them.
    """
    ordered = np.sort(samples)
    n = len(ordered)
    spread = Z95 * math.sqrt(n * share * (1 - share))
    low = max(0, math.floor(n * share - spread) - 1)
    high = min(n - 1, math.ceil(n * share + spread))
    return float(np.quantile(ordered, share)), float(ordered[low]), float(ordered[high])


def t_quantile(p: float, freedom: int) -> float:
    """Quantile of Student's t for p > 1/2, to 1e-9, by bisecting the exact distribution function.

    The function for whole degrees of freedom: Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1.0
    while _t_below(high, freedom) < p:
        high *= 2
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, freedom) < p else (low, middle)
    return high


def _t_below(t: float, freedom: int) -> float:
    """P(T <= t), t >= 0."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(3 if odd else 2, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    between = (2 / math.pi) * (angle + sine * total) if odd else sine * total
    return 0.5 + between / 2
