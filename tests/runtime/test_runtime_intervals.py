import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.intervals import Ratio, percentile, ratio, t_quantile, verdict

times = st.lists(st.floats(1.0, 1e6), min_size=1, max_size=5).map(np.array)
rounds = st.lists(st.tuples(times, times), min_size=2, max_size=10)


@pytest.fixture(scope="module")
def student():
    return pytest.importorskip("scipy.stats", reason="pip install 'edge-optimize[optimize]'").t


@given(p=st.floats(0.55, 0.9999), freedom=st.integers(1, 300))
def test_t_quantile_is_scipys(student, p, freedom):
    assert t_quantile(p, freedom) == pytest.approx(student.ppf(p, freedom), rel=1e-7)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 8, 30, 99, 1000])
def test_t_quantile_at_the_level_that_is_used(student, freedom):
    assert t_quantile(0.975, freedom) == pytest.approx(student.ppf(0.975, freedom), rel=1e-9)


def cut(calls):
    """Calls of which none is longer than ten medians."""
    return np.minimum(calls, 10 * np.median(calls))


def test_beside_a_busy_process_the_ratio_is_that_of_the_work_and_a_pause_is_none_of_it():
    random = np.random.default_rng(0)

    def calls(work):  # of two kinds: with both cores, and with one that is shared
        return work * np.where(random.random(80) < random.uniform(0.4, 0.6), 1.0, 2.6)

    base, other = [calls(2.5) for _ in range(40)], [calls(3.0) for _ in range(40)]
    base[0][0] = 500.0  # the machine stood still
    found = ratio(base, other)
    assert found.low < 2.5 / 3.0 < found.high < 1
    medians = [math.log(np.median(b) / np.median(o)) for b, o in zip(base, other, strict=True)]
    assert found.half_width < 0.3 * 2 * np.std(medians) / math.sqrt(len(medians))


@given(rounds)
def test_ratio_is_students_interval_of_the_log_ratios_of_means(student, pairs):
    base, other = zip(*pairs, strict=True)
    logs = [math.log(cut(b).mean()) - math.log(cut(o).mean()) for b, o in pairs]
    n, middle = len(logs), sum(logs) / len(logs)
    error = math.sqrt(sum((x - middle) ** 2 for x in logs) / (n - 1) / n)
    found = ratio(base, other)
    assert found.rounds == n
    assert math.log(found.value) == pytest.approx(middle, abs=1e-9)
    if error < 1e-9:
        assert found.half_width < 1e-6
        return
    low, high = student.interval(0.95, n - 1, loc=middle, scale=error)
    assert math.log(found.low) == pytest.approx(low, rel=1e-6, abs=1e-9)
    assert math.log(found.high) == pytest.approx(high, rel=1e-6, abs=1e-9)
    assert math.log1p(found.half_width) == pytest.approx((high - low) / 2, rel=1e-6)


@given(rounds)
def test_ratio_turned_round_is_its_inverse(pairs):
    base, other = zip(*pairs, strict=True)
    one, back = ratio(base, other), ratio(other, base)
    assert one.value * back.value == pytest.approx(1)
    assert one.low * back.high == pytest.approx(1)
    assert one.high * back.low == pytest.approx(1)


def test_above_one_is_faster():
    found = ratio([np.array([20.0, 22.0])] * 8, [np.array([10.0, 11.0])] * 8)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2, 2))
    assert verdict(found, 0.02) == "faster"


def test_one_round_tells_nothing():
    found = ratio([np.array([10.0])], [np.array([20.0])])
    assert found.value == pytest.approx(0.5)
    assert found.low < 1e-300
    assert found.high > 1e300
    assert verdict(found, 0.02) == "cannot tell"


def test_the_half_width_of_one_round_is_everything():
    assert ratio([np.array([10.0])], [np.array([20.0])]).half_width > 1e100


def test_a_different_number_of_rounds_is_a_mistake():
    with pytest.raises(ValueError, match="shorter"):
        ratio([np.ones(3)] * 2, [np.ones(3)] * 1)


@pytest.mark.parametrize(
    ("low", "high", "margin", "wanted"),
    [
        (1.5, 1.7, 0.02, "faster"),
        (1.001, 1.03, 0.02, "faster"),
        (0.5, 0.7, 0.02, "slower"),
        (0.97, 0.999, 0.02, "slower"),
        (0.99, 1.01, 0.02, "no difference"),
        (1.005, 1.015, 0.02, "no difference"),
        (0.985, 0.995, 0.02, "no difference"),
        (1 / 1.02, 1.02, 0.02, "no difference"),
        (0.92, 1.09, 0.1, "no difference"),
        (0.9, 1.1, 0.2, "cannot tell"),
        (1.05, 1.5, 0.2, "cannot tell"),
        (1.21, 1.5, 0.2, "faster"),
        (0.7, 0.95, 0.2, "cannot tell"),
        (0.7, 0.83, 0.2, "slower"),
        (0.9, 1.1, 0.02, "cannot tell"),
        (0.99, 1.05, 0.02, "cannot tell"),
        (0.95, 1.0, 0.02, "cannot tell"),
        (1.0, 1.05, 0.02, "cannot tell"),
    ],
)
def test_verdict(low, high, margin, wanted):
    assert verdict(Ratio(math.sqrt(low * high), low, high, 8), margin) == wanted


def test_two_equal_processes_are_told_apart_as_often_as_the_level_says():
    random, told = np.random.default_rng(0), 0
    for _ in range(1000):
        base, other = np.exp(random.normal(0, 0.1, (2, 8, 1)))
        told += verdict(ratio(list(base), list(other)), 1e-9) in ("faster", "slower")
    assert 0.03 < told / 1000 < 0.07


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_percentile_lies_between_samples(samples, share):
    middle, low, high = percentile(np.array(samples), share)
    assert low in samples
    assert high in samples
    assert low <= middle <= high
    assert middle == pytest.approx(np.quantile(samples, share))


@pytest.mark.parametrize(("share", "n"), [(0.5, 40), (0.5, 400), (0.9, 400), (0.99, 2000)])
def test_percentile_bounds_cover(share, n):
    random = np.random.default_rng(1)
    truth = -math.log(1 - share)  # of the exponential distribution
    found = [percentile(random.exponential(size=n), share) for _ in range(1000)]
    covered = np.mean([low <= truth <= high for _, low, high in found])
    assert covered >= 0.93
    assert covered < 0.9999  # a bound that is never wrong is too wide


def test_percentile_of_one_sample():
    assert percentile(np.array([3.0]), 0.99) == (3.0, 3.0, 3.0)
