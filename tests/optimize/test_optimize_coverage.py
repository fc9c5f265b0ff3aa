"""Do the intervals of a drop hold the truth as often as they say? Simulated sets of which the truth is known."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from scipy.stats import multinomial

from optimize import metrics
from optimize.metrics import Rows
from optimize.metrics.average_precision import OVERLAPS
from optimize.statistics import paired_drop, tango

SETS, NOMINAL = 2000, 0.90
PARTS = 2  # of the sets, each in a process of its own: two of the metrics take minutes for them
RESAMPLES = 100  # fewer than in a report: their number moves the noise of a bound, not its place
SAMPLES = 120


def shares(random):
    """Pictures whose pixels are right or wrong, the more alike within a picture the better: (right, all) of each."""
    level = random.beta(8, 2, SAMPLES)
    counts = random.integers(20, 60, SAMPLES)
    return [np.stack([random.binomial(counts, level), counts], 1).astype(float) for _ in range(2)], "accuracy"


def words(random):
    """Recordings of different lengths: (errors, words), errors more alike within a recording than between them."""
    length = random.integers(5, 40, SAMPLES)
    level = random.gamma(2, 0.05, SAMPLES)
    return [np.stack([random.poisson(level * length), length], 1).astype(float) for _ in range(2)], "word_error_rate"


def errors(random):
    """Squared errors of a regression: skew, and alike in the two models."""
    common = random.standard_normal(SAMPLES)
    return [((common + 0.5 * random.standard_normal(SAMPLES)) ** 2)[:, None] for _ in range(2)], "mse"


def ranks(random):
    """Sentence pairs, some to a document on which a model errs alike: rows of (answer, label) that a sample owns."""
    counts = random.integers(1, 6, SAMPLES)
    document = np.repeat(np.arange(SAMPLES), counts)
    label = random.standard_normal(len(document))
    noise = (
        0.6 * random.standard_normal(SAMPLES)[document] + 0.2 * random.standard_normal(len(document)) for _ in "ab"
    )
    found = [label + one for one in noise]
    return [Rows(np.stack([answer, label], 1), counts) for answer in found], "spearman"


def confusions(random):
    """Segmentation maps: intersections and unions of three classes in each picture."""
    sizes = random.dirichlet((4, 2, 1), SAMPLES) * 200
    hard = random.beta(6, 2, SAMPLES)[:, None]
    found = []
    for _ in range(2):
        both = sizes * np.clip(hard + random.normal(0, 0.05, (SAMPLES, 3)), 0, 1)
        found.append(np.concatenate([both, 2 * sizes - both], 1))
    return found, "miou"


def detections(random):
    """Pictures with objects: boxes found or missed, more missed in a hard picture, and false ones beside them."""
    counts = random.integers(1, 5, SAMPLES)
    hard = random.beta(6, 3, SAMPLES)
    found = []
    for _ in range(2):
        rows, sizes = [], []
        for number, share in zip(counts, hard, strict=True):
            right = random.random(number) < share
            false = random.poisson(1 - share)
            scores = np.concatenate([random.beta(5, 2, int(right.sum())), random.beta(2, 3, false)])
            hits = np.repeat([1.0, 0.0], [int(right.sum()), false])
            own = np.zeros((number + len(scores), 2 + OVERLAPS))
            own[:number, 1] = np.nan  # the objects
            own[number:, 1] = scores
            own[number:, 2:] = hits[:, None]
            rows.append(own)
            sizes.append(len(own))
        found.append(Rows(np.concatenate(rows), np.array(sizes)))
    return found, "average_precision"


def held(simulate, part):
    """How many of a part's intervals hold the true drop, zero."""
    random = np.random.default_rng([20, part])
    count = 0
    for number in range(part, SETS, PARTS):
        (original, candidate), name = simulate(random)
        metric = metrics.get(name)
        drop = paired_drop(original, candidate, metric.finish, metric.higher_is_better, number, RESAMPLES, metric.drawn)
        count += drop.low <= 0 <= drop.high
    return count


@pytest.mark.parametrize(
    "simulate", [shares, words, errors, ranks, confusions, detections], ids=lambda one: one.__name__
)
def test_the_bootstrap_over_samples_covers(simulate):
    """Two models that err alike: the true drop is zero, and nine intervals of ten hold it."""
    with ProcessPoolExecutor(PARTS, get_context("spawn")) as pool:
        share = sum(pool.map(held, [simulate] * PARTS, range(PARTS))) / SETS
    assert abs(share - NOMINAL) <= 0.02, share


def test_rows_taken_for_samples_would_not_cover():
    """That the test above can fail: as if each pair of a document were a sample of its own."""
    random = np.random.default_rng(21)
    count = 0
    for number in range(300):
        (original, candidate), name = ranks(random)
        drop = paired_drop(original.values, candidate.values, metrics.get(name).finish, True, number, RESAMPLES)
        count += drop.low <= 0 <= drop.high
    assert count / 300 < NOMINAL - 0.02, count / 300


@pytest.mark.parametrize("expected", [0.5, 1, 20])
@pytest.mark.parametrize("one_sided", [0.5, 0.7, 1.0])
def test_the_paired_interval_covers_with_few_discordant_pairs(expected, one_sided):
    """Right-or-wrong, 400 samples, so many discordant pairs expected, this share of them lost: every outcome counts."""
    n, held = 400, 0.0
    true, chances = expected / n * (2 * one_sided - 1), [expected / n * one_sided, expected / n * (1 - one_sided)]
    for lost in range(60):
        for won in range(60 if one_sided < 1 else 1):
            chance = multinomial.pmf([lost, won, n - lost - won], n, [*chances, 1 - sum(chances)])
            if chance > 1e-9:
                low, high = tango(lost, won, n)
                held += chance * (low <= true <= high)
                assert high > low, "without any discordant pair too"
    assert held >= NOMINAL - 0.02, held
