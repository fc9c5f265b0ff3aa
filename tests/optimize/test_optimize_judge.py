import numpy as np
import pytest

from optimize import judge, metrics
from optimize.report import Row
from optimize.statistics import tango
from runtime.measure import Measurement, Trace

ACCURACY, MSE = metrics.get("accuracy"), metrics.get("mse")


def column(values):
    return np.asarray(values, np.float64)[:, None]


def test_the_original_has_a_value_and_no_verdict():
    found = judge.accuracy(ACCURACY, column([1, 1, 0, 1]), None, 0.01)
    assert (found.metric, found.value, found.samples) == ("accuracy", 0.75, 4)
    assert (found.drop, found.low, found.high, found.verdict) == (0, 0, 0, None)


@pytest.mark.parametrize(
    ("lost", "won", "max_drop", "verdict"),
    [(1, 1, 0.1, "within"), (40, 1, 0.05, "exceeds"), (2, 1, 0.01, "cannot tell")],
)
def test_a_candidate_gets_drop_bounds_and_verdict(lost, won, max_drop, verdict):
    original = column([1] * 180 + [0] * 20)
    candidate = original.copy()
    candidate[:lost], candidate[180 : 180 + won] = 0, 1
    found = judge.accuracy(ACCURACY, original, candidate, max_drop)
    assert found.drop == pytest.approx((lost - won) / 200) and found.value == pytest.approx(0.9 - (lost - won) / 200)
    assert (found.low, found.high) == tango(lost, won, 200) and found.verdict == verdict
    assert (found.samples_that_tell is not None) == (verdict == "cannot tell") and found.changed_p is not None


def test_the_number_of_samples_that_would_tell_does():
    original, candidate = column([1] * 200), column([0] * 1 + [1] * 199)
    needed = judge.accuracy(ACCURACY, original, candidate, 0.01).samples_that_tell
    scale = needed / 200
    assert tango(scale, 0, needed)[1] <= 0.01 < tango(1, 0, 200)[1]


def test_less_is_better_turns_the_sign():
    errors = np.random.default_rng(0).random((100, 1))
    found = judge.accuracy(MSE, errors, errors + 0.2, 0.1)
    assert found.verdict == "exceeds" and found.drop == pytest.approx(0.2) and found.changed_p is None
    assert judge.accuracy(MSE, errors, errors - 0.2, 0.0).verdict == "within"


def test_a_right_or_wrong_metric_where_less_is_better_counts_the_other_way():
    from dataclasses import replace

    mistakes = replace(ACCURACY, higher_is_better=False)
    original, candidate = column([0] * 200), column([1] * 2 + [0] * 198)
    found = judge.accuracy(mistakes, original, candidate, 0.012)
    assert found.drop == pytest.approx(0.01) and (found.low, found.high) == tango(2, 0, 200)
    assert found.verdict == "cannot tell" and found.samples_that_tell > 200


# latency: eight rounds of ten calls each, in nanoseconds


def trace(milliseconds, rounds=8, seed=0):
    random = np.random.default_rng(seed)
    calls = tuple((random.normal(milliseconds, 0.001 * milliseconds, 10) * 1e6).astype(np.int64) for _ in range(rounds))
    return Trace(calls, tuple(one // 2 for one in calls), (100.0,) * rounds, 5000, 2)


def measurement(**times):
    traces = {name: trace(ms, seed=i) for i, (name, ms) in enumerate(times.items())}
    return Measurement("original", "again", traces, {}, 8, "budget", "CPU time", 3)


MEASURED = measurement(original=10.0, again=10.0, plain=8.0, default=5.0, int8=4.0, slow=20.0, equal=10.01)


@pytest.mark.parametrize(
    ("name", "ratio", "verdict"), [("int8", 2.5, "faster"), ("slow", 0.5, "slower"), ("equal", 1.0, "no difference")]
)
def test_latency_has_percentiles_ratio_verdict_and_raw_calls(name, ratio, verdict):
    found = judge.latency(MEASURED, name, 0.02)
    calls = MEASURED.traces[name].samples / 1e6
    assert found.p50_ms == pytest.approx(np.median(calls))
    assert found.engine_only_ms == pytest.approx(np.median(calls) / 2, rel=1e-6)
    assert found.p50_interval_ms[0] <= found.p50_ms <= found.p50_interval_ms[1]
    assert found.p50_ms < found.p90_ms < found.p99_ms
    assert found.ratio == pytest.approx(ratio, rel=0.01) and found.verdict == verdict
    assert found.low < found.ratio < found.high
    assert found.rounds == 8 and found.samples == 80
    assert found.raw == [calls.tolist() for calls in MEASURED.traces[name].rounds]


def test_the_base_has_no_ratio():
    found = judge.latency(MEASURED, "original", 0.02)
    assert (found.ratio, found.low, found.high, found.verdict) == (None,) * 4


def test_verdicts_are_told_anew_with_another_margin():
    latencies = {name: judge.latency(MEASURED, name, 0.02) for name in ("original", "int8", "equal")}
    rows = {name: Row(name=name, engine="e", status="measured", latency=one) for name, one in latencies.items()}
    again = judge.with_margin({**rows, "untimed": Row(name="untimed", engine="e", status="failed")}, 2.0)
    assert again["int8"].latency == latencies["int8"].model_copy(update={"verdict": "cannot tell"})
    assert again["original"].latency.verdict is None and again["untimed"].latency is None


def test_a_wide_margin_makes_no_difference():
    assert judge.latency(MEASURED, "equal", 0.02).verdict == "no difference"
    assert judge.latency(MEASURED, "int8", 2.0).verdict == "cannot tell"  # beside such noise


def test_the_chosen_is_compared_with_the_plain_and_the_default_engine():
    found = judge.final(MEASURED, "int8", "plain", "default")
    assert found.name == "int8" and found.latency.ratio == pytest.approx(2.5, rel=0.01)
    assert found.ratio_to_plain.ratio == pytest.approx(2.0, rel=0.01) and found.ratio_to_plain.verdict == "faster"
    assert found.ratio_to_default.ratio == pytest.approx(1.25, rel=0.01)


def test_a_comparison_that_was_not_measured_is_null():
    found = judge.final(MEASURED, "int8", None, "gone")
    assert found.ratio_to_plain is None and found.ratio_to_default is None


def test_timing_tells_how_it_went():
    found = judge.timing(MEASURED)
    assert (found.rounds, found.stopped, found.quiet, found.restless) == (8, "budget", "CPU time", 3)
    assert found.floor == MEASURED.floor < 0.02 == found.margin
