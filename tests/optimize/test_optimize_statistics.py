import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from optimize.metrics import Rows, share
from optimize.statistics import Z90, Drop, judge, mcnemar, paired_drop, samples_that_tell, tango

PAIRS = [
    (0, 0, 50), (1, 0, 50), (0, 1, 50), (3, 3, 50), (7, 2, 60), (2, 7, 60), (20, 11, 400), (11, 20, 400),
    (30, 0, 100), (0, 30, 100), (45, 44, 90), (12, 9, 1000), (0, 0, 10_000), (60, 40, 100), (10, 0, 10),
]  # fmt: skip


def brute_force_score(lost, won, n, drop):
    """The score statistic with the constrained likelihood maximised numerically, as the paper defines it."""

    def minus_log_likelihood(p_won):
        cells = ((lost, p_won + drop), (won, p_won), (n - lost - won, 1 - 2 * p_won - drop))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    low, high = max(0.0, -drop), (1 - drop) / 2
    found = optimize.minimize_scalar(minus_log_likelihood, bounds=(low, high), options={"xatol": 1e-13})
    p_won = min((low, high, found.x), key=minus_log_likelihood)  # the maximum may lie on the border
    variance = n * (2 * p_won + drop - drop * drop)
    return (lost - won - n * drop) / math.sqrt(variance)


def brute_force_interval(lost, won, n):
    middle, edge = (lost - won) / n, 1e-9

    def bound(z, low, high):
        def distance(drop):
            return brute_force_score(lost, won, n, drop) - z

        if high - low < 3 * edge or distance(low + edge) * distance(high - edge) > 0:
            return low if z > 0 else high  # the score does not reach z before the end
        return optimize.brentq(distance, low + edge, high - edge, xtol=1e-10)

    return bound(Z90, -1.0, middle), bound(-Z90, middle, 1.0)


@pytest.mark.parametrize(("lost", "won", "n"), PAIRS)
def test_tango_equals_the_numerically_maximised_score_test(lost, won, n):
    assert tango(lost, won, n) == pytest.approx(brute_force_interval(lost, won, n), abs=2e-6)


def test_z_is_the_normal_quantile():
    assert pytest.approx(stats.norm.ppf(0.95), abs=1e-12) == Z90


@pytest.mark.parametrize("n", [1, 10, 300, 1000, 50_000])
def test_without_discordant_pairs_the_interval_is_z2_over_n_plus_z2(n):
    # With p_won = 0 the score is -n d / sqrt(n d (1 - d)); set to -z, that is n d = z^2 (1 - d).
    expected = Z90**2 / (n + Z90**2)
    assert tango(0, 0, n) == pytest.approx((-expected, expected), abs=1e-12)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
@settings(max_examples=200, deadline=None)
def test_tango_is_antisymmetric_and_holds_the_estimate(counts):
    first, second, n = counts
    lost, won = first, min(second, n - first)
    low, high = tango(lost, won, n)
    assert (low, high) == pytest.approx(tuple(-bound for bound in reversed(tango(won, lost, n))), abs=1e-9)
    assert -1 <= low <= (lost - won) / n + 1e-12 and (lost - won) / n - 1e-12 <= high <= 1


def test_tango_narrows_with_more_samples_of_the_same_kind():
    widths = [high - low for low, high in (tango(3 * k, 2 * k, 100 * k) for k in (1, 2, 4, 8, 16))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("p_lost", "p_won"), [(0.02, 0.01), (0.05, 0.05), (0.005, 0.0), (0.15, 0.08)])
def test_one_sided_bounds_of_tango_cover_in_nearly_95_percent(p_lost, p_won):
    random, n, runs = np.random.default_rng(7), 300, 2000
    counts = random.multinomial(n, [p_lost, p_won, 1 - p_lost - p_won], runs)[:, :2]
    bounds = {pair: tango(*pair, n) for pair in {(int(lost), int(won)) for lost, won in counts}}
    drop = p_lost - p_won
    above = sum(bounds[int(lost), int(won)][1] >= drop for lost, won in counts) / runs
    below = sum(bounds[int(lost), int(won)][0] <= drop for lost, won in counts) / runs
    assert above >= 0.93 and below >= 0.93


def test_tango_is_not_needlessly_wide():
    random, n, runs = np.random.default_rng(8), 300, 2000
    counts = random.multinomial(n, [0.06, 0.04, 0.9], runs)[:, :2]
    covered = sum(tango(int(lost), int(won), n)[1] >= 0.02 for lost, won in counts) / runs
    assert covered <= 0.97


@pytest.mark.parametrize(
    ("lost", "won"), [(0, 0), (1, 0), (0, 1), (5, 5), (9, 1), (1, 9), (40, 61), (500, 700), (3000, 2990)]
)
def test_mcnemar_equals_the_binomial_test(lost, won):
    expected = stats.binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-8)


def column(values):
    return np.asarray(values, np.float64)[:, None]


def mean(statistics):
    return float(statistics.mean())


def test_paired_drop_of_a_right_or_wrong_metric():
    original = column([1, 1, 1, 1, 0, 0, 1, 1, 1, 1])
    candidate = column([0, 0, 0, 1, 1, 0, 1, 1, 1, 1])
    found = paired_drop(original, candidate, mean, True)
    assert found.value == pytest.approx(0.2) and found.samples == 10
    assert (found.low, found.high) == tango(3, 1, 10)
    assert found.changed == pytest.approx(stats.binomtest(1, 4).pvalue)


def test_the_pairing_counts_and_not_the_totals():
    original = column([1, 0] * 50)
    swapped = paired_drop(original, 1 - original, mean, True)
    same = paired_drop(original, original, mean, True)
    assert swapped.value == same.value == 0
    assert swapped.high > 5 * same.high > 0


def test_where_less_is_better_more_is_a_drop():
    original, candidate = column([0] * 20), column([1] * 4 + [0] * 16)
    found = paired_drop(original, candidate, mean, False)
    assert found.value == pytest.approx(0.2) and (found.low, found.high) == tango(4, 0, 20)
    errors = np.random.default_rng(0).random((50, 1))
    assert paired_drop(errors, errors + 0.5, mean, False).value == pytest.approx(0.5)
    assert paired_drop(errors, errors + 0.5, mean, True).value == pytest.approx(-0.5)


def test_bootstrap_covers_the_known_drop():
    random, covered, runs = np.random.default_rng(3), 0, 40
    for run in range(runs):
        original = random.exponential(1.0, (150, 1))
        candidate = original + random.normal(0.3, 1.0, (150, 1))
        found = paired_drop(original, candidate, mean, False, seed=run)
        covered += found.low <= 0.3 <= found.high
        assert found.low < found.value < found.high and found.changed is None
    assert covered >= 32  # 36 expected of a two-sided 90 % interval


def test_bootstrap_agrees_with_scipy():
    random = np.random.default_rng(5)
    original = random.exponential(1.0, (200, 1))
    candidate = original * 1.1 + random.normal(0, 0.2, (200, 1))
    found = paired_drop(original, candidate, mean, False)
    expected = stats.bootstrap(
        ((candidate - original)[:, 0],), np.mean, confidence_level=0.9, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    width = expected.high - expected.low
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.1 * width)


def test_bootstrap_of_samples_that_own_several_rows():
    random = np.random.default_rng(6)
    total = np.full(80, 64.0)
    original = np.stack([random.integers(50, 64, 80), total], 1)
    candidate = np.stack([original[:, 0] - random.integers(0, 8, 80), total], 1)

    def finish(statistics):
        return float(statistics[:, 0].sum() / statistics[:, 1].sum())

    found = paired_drop(original, candidate, finish, True)
    assert found.value == pytest.approx(finish(original) - finish(candidate))
    assert 0 < found.low < found.value < found.high


def test_bootstrap_is_the_same_for_the_same_seed_only():
    original, candidate = np.random.default_rng(0).random((2, 60, 1))
    first, again, other = (paired_drop(original, candidate, mean, True, seed) for seed in (0, 0, 1))
    assert first == again and (first.low, first.high) != (other.low, other.high)


def test_identical_statistics_of_a_regression_give_no_width():
    errors = np.random.default_rng(0).random((30, 1))
    assert paired_drop(errors, errors.copy(), mean, False) == Drop(0.0, 0.0, 0.0, 30, None)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.01, 0.005, "within"),
        (-0.01, 0.01, "within"),
        (0.0, 0.0101, "cannot tell"),
        (0.01, 0.02, "cannot tell"),
        (0.0101, 0.02, "exceeds"),
    ],
)
def test_judge_has_three_verdicts(low, high, verdict):
    assert judge(Drop((low + high) / 2, low, high, 100, None), 0.01) == verdict


def told(lost, won, samples, n, max_drop):
    low, high = tango(lost * n / samples, won * n / samples, n)
    return high <= max_drop or low > max_drop


@pytest.mark.parametrize(
    ("lost", "won", "samples", "max_drop"),
    [(0, 0, 100, 0.01), (5, 3, 500, 0.01), (12, 2, 600, 0.01), (30, 10, 1000, 0.015), (2, 4, 60, 0.02)],
)
def test_so_many_samples_tell_and_one_less_does_not(lost, won, samples, max_drop):
    drop = Drop((lost - won) / samples, *tango(lost, won, samples), samples, None)
    assert judge(drop, max_drop) == "cannot tell"
    n = samples_that_tell(drop, max_drop, lost, won)
    assert n > samples
    assert told(lost, won, samples, n, max_drop) and not told(lost, won, samples, n - 1, max_drop)


@pytest.mark.parametrize(("value", "low", "high"), [(0.1, -0.3, 0.6), (0.9, 0.2, 1.5)])
def test_samples_that_tell_without_pairs_follow_the_square_root(value, low, high):
    drop, max_drop = Drop(value, low, high, 100, None), 0.5
    assert judge(drop, max_drop) == "cannot tell"
    n = samples_that_tell(drop, max_drop)

    def at(samples):
        part = math.sqrt(100 / samples)
        return Drop(value, value - (value - low) * part, value + (high - value) * part, samples, None)

    assert judge(at(n), max_drop) != "cannot tell" and judge(at(n - 1), max_drop) == "cannot tell"


def test_no_number_of_samples_tells_where_the_drop_is_the_limit():
    assert samples_that_tell(Drop(0.01, *tango(10, 0, 1000), 1000, None), 0.01, 10, 0) is None
    assert samples_that_tell(Drop(0.5, 0.1, 0.9, 100, None), 0.5) is None
    assert samples_that_tell(Drop(0.0, *tango(0, 0, 100), 100, None), 0.0, 0, 0) is None


def test_no_number_is_named_beyond_what_anyone_has():
    nearly = Drop(0.0099999, *tango(10, 0, 1000), 1000, None)
    assert samples_that_tell(nearly, 0.0099999 + 1e-9) is None


def test_one_recording_has_the_interval_of_its_blocks():
    random = np.random.default_rng(0)
    right = np.ones((1600, 1))
    wrong = right.copy()
    wrong[random.choice(1600, 60, replace=False)] = 0
    one = np.array([1600])
    found = paired_drop(Rows(right, one), Rows(wrong, one), share, True)
    assert found.value == pytest.approx(60 / 1600) and found.samples == 1
    spread = Z90 * np.sqrt(0.0375 * 0.9625 / 1600)  # of frames that have nothing to do with one another
    assert found.high - found.value == pytest.approx(spread, rel=0.4)
    assert found.value - found.low == pytest.approx(spread, rel=0.4)
    together = right.copy()
    together[:60] = 0  # all at one place: much less is known
    wide = paired_drop(Rows(right, one), Rows(together, one), share, True)
    assert wide.value == found.value and wide.high - wide.low > 2 * (found.high - found.low)


def test_the_original_is_resampled_once_for_all_candidates():
    random = np.random.default_rng(0)
    original, one, other = (Rows.of(random.standard_normal((40, 1))) for _ in range(3))
    calls = []

    def finish(rows):
        calls.append(len(rows))
        return float(np.mean(rows))

    drops = [paired_drop(original, rows, finish, True, resamples=200) for rows in (one, other)]
    assert len(calls) == 4 + 200 * 3  # the figures themselves, the original's resamplings, the candidates'
    again = Rows(original.values.copy(), original.counts)  # other rows, though equal, are resampled anew
    assert paired_drop(again, other, finish, True, resamples=200) == drops[1]
    assert len(calls) == 6 + 200 * 5
    assert paired_drop(original, other, finish, True, seed=1, resamples=200) != drops[1]


def test_a_metric_may_have_a_way_of_its_own_to_draw_samples():
    random = np.random.default_rng(0)
    original, candidate = (Rows.of(random.standard_normal((40, 1))) for _ in range(2))

    def drawn(rows):
        return lambda samples: mean(rows.values[samples])

    assert paired_drop(original, candidate, mean, True, drawn=drawn) == paired_drop(original, candidate, mean, True)
