import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.report import Accuracy, Latency, Row
from optimize.select import MIB, choose, front, limits, pending, unbuilt
from optimize.tables import Constraints, Device


def row(name, ms=10.0, drop=0.0, verdict="within", status="measured", size=1000, memory=5000, reason=""):
    judged = Accuracy(metric="accuracy", value=0.9 - drop, drop=drop, verdict=verdict, samples=100) if verdict else None
    both = (ms, ms)
    timed = Latency(
        p50_ms=ms, p50_interval_ms=both, p90_ms=ms, p90_interval_ms=both, p99_ms=ms, p99_interval_ms=both,
        rounds=3, samples=9, raw=[],
    ) if ms else None  # fmt: skip
    return Row(
        name=name, engine="e", status=status, reason=reason, validate=judged, latency=timed, size_bytes=size,
        peak_memory_bytes=memory,
    )  # fmt: skip


def choice(*rows, objective="latency", max_drop=0.01, margin=0.02, batch=1):
    return choose(rows, objective, max_drop, "plain", margin, batch)


def test_the_faster_is_taken():
    found = choice(row("plain", 10), row("int8", 4), row("default", 8))
    assert found.name == "int8" and found.closest is None
    assert "best of 3 by latency (4 ms at batch 1)" in found.why and "within the limit on validate" in found.why


def test_the_pairs_decide_where_they_and_the_medians_disagree():
    def seen(name, ms, ratio):
        one = row(name, ms)
        return one.model_copy(update={"latency": one.latency.model_copy(update={"ratio": ratio})})

    rows = [seen("plain", 10, 1.0), seen("first look", 4.0, 2.1), seen("closer look", 4.2, 2.4)]
    found = choice(*rows)
    assert found.name == "closer look" and "(4.2 ms at batch 1)" in found.why
    assert front(rows) == ["closer look"]
    by_tail = choose(rows, "latency", 0.01, "plain", 0.02, percentile=99)  # there is no ratio of tails
    assert by_tail.name == "first look" and "p99 of 4 ms" in by_tail.why


def test_what_was_looked_at_again_is_chosen_among_itself_where_any_of_it_holds():
    rows = [row("plain", 10), row("once", 4), row("again", 5), row("again, and loses", 3, 0.05, "exceeds")]
    closer = ["again", "again, and loses"]
    assert choose(rows, "latency", 0.01, "plain", 0.02, among=closer).name == "again"
    assert choose(rows, "latency", 0.01, "plain", 0.02, among=closer[1:]).name == "once"


def test_the_front_has_what_nothing_beats_in_time_drop_and_size_at_once():
    rows = [
        row("plain", 10, 0.0, size=900), row("beaten", 10.5, 0.001, size=900), row("fast", 2, 0.02, size=900),
        row("small", 9, 0.01, size=100), row("like plain", 10, 0.0, size=900), row("unjudged", 1, verdict=None),
    ]  # fmt: skip
    assert front(rows) == ["fast", "small", "plain", "like plain"]
    assert front([]) == []


def test_the_plain_engine_is_taken_where_it_is_the_fastest():
    assert choice(row("plain", 4), row("int8", 5)).name == "plain"


def test_within_is_preferred_where_it_is_as_fast():
    found = choice(row("plain", 10), row("sure", 5.05, 0.002), row("unsure", 5.0, 0.004, "cannot tell"))
    assert found.name == "sure" and "unsure, as good, cannot be told" in found.why


def test_of_those_that_are_as_fast_the_one_that_loses_least_is_taken():
    loses, less = row("loses", 5.0, 0.004), row("less", 5.05, 0.001)
    found = choice(row("plain", 10), loses, less, row("least", 5.2, 0.0))
    assert found.name == "less" and "loses, as good, loses more there" in found.why
    assert choice(row("plain", 10), loses, row("like it", 5.05, 0.004)).name == "loses"
    unsure = [row("loses", 5.0, 0.004, "cannot tell"), row("less", 5.05, 0.001, "cannot tell")]
    assert choice(row("plain", 10), *unsure).name == "less"


@pytest.mark.parametrize("ms", [4.5, 4.89])
def test_cannot_tell_is_taken_where_it_is_truly_faster(ms):
    found = choice(row("plain", 10), row("sure", 5.0, 0.002), row("unsure", ms, 0.004, "cannot tell"))
    assert found.name == "unsure" and "cannot be told on validate" in found.why


def test_the_margin_says_what_truly_faster_is():
    rows = [row("plain", 10), row("sure", 5.0), row("unsure", 4.5, 0.004, "cannot tell")]
    assert choice(*rows, margin=0.02).name == "unsure" and choice(*rows, margin=0.2).name == "sure"


def test_exceeds_is_never_taken():
    assert choice(row("plain", 10), row("int8", 1, 0.2, "exceeds")).name == "plain"
    assert choice(row("plain", 10), row("int8", 1, 0.005, "exceeds")).name == "plain"


def test_a_drop_that_is_estimated_above_the_limit_is_not_taken():
    assert choice(row("plain", 10), row("int8", 1, 0.011, "cannot tell")).name == "plain"
    assert choice(row("plain", 10), row("int8", 1, 0.01, "cannot tell")).name == "int8"


def test_where_none_holds_the_plain_engine_enters_and_the_closest_is_named():
    found = choice(row("plain", 10, 0.5, "exceeds"), row("a", 1, 0.3, "exceeds"), row("b", 1, 0.2, "exceeds"))
    assert (found.name, found.closest) == ("plain", "b")
    assert "no candidate holds the limit" in found.why and "the plain engine enters" in found.why


def test_where_none_holds_and_the_plain_engine_failed_nothing_enters():
    found = choice(row("plain", status="failed"), row("a", 1, 0.3, "exceeds"))
    assert (found.name, found.closest) == (None, "a")


@pytest.mark.parametrize("status", ["failed", "wrong", "built, not measured", "dropped"])
def test_what_was_not_measured_is_ignored(status):
    assert choice(row("plain", 10), row("int8", 1, status=status)).name == "plain"


def test_what_was_not_judged_or_not_timed_is_ignored():
    assert choice(row("plain", 10), row("a", 1, verdict=None), row("b", None)).name == "plain"


def test_where_nothing_was_measured_the_reasons_are_given():
    found = choice(row("plain", status="failed", reason="no memory"), row("int8", status="wrong", reason="gives NaN"))
    assert found.name is None and "plain: no memory" in found.why and "int8: gives NaN" in found.why


@pytest.mark.parametrize(
    ("objective", "name", "shown"),
    [
        ("latency", "fast", "1 ms at batch 4"),
        ("throughput", "fast", "4e+03 samples a second at batch 4"),
        ("size", "small", "1.00 MiB"),
        ("memory", "lean", "2 MiB resident"),
    ],
)
def test_every_objective(objective, name, shown):
    big = 50 * 2**20
    rows = [
        row("plain", 9, size=big, memory=big),
        row("fast", 1, size=big, memory=big),
        row("small", 8, size=2**20, memory=big),
        row("lean", 7, size=big, memory=2**21),
    ]
    found = choice(*rows, objective=objective, batch=4)
    assert found.name == name and f"best of 4 by {objective} ({shown})" in found.why


@pytest.mark.parametrize(("objective", "lacking"), [("size", "size"), ("memory", "memory")])
def test_a_figure_that_is_not_known_is_not_the_best(objective, lacking):
    rows = [row("plain", 9, size=2**20, memory=2**20), row("unknown", 9, **{lacking: None})]
    assert choice(*rows, objective=objective).name == "plain"


def test_a_target_that_cannot_be_built_travels_where_its_file_holds_the_limit():
    held = unbuilt(row("int8", None, 0.004, "cannot tell", "cannot build here", reason="no GPU"), 0.01)
    assert held.name == "int8" and "no GPU" in held.why and "latency not measured" in held.why and not held.closest
    lost = unbuilt(row("int8", None, 0.3, "exceeds", "cannot build here", reason="no GPU"), 0.01)
    assert (lost.name, lost.closest) == (None, "int8") and "loses 0.3" in lost.why
    failed = unbuilt(row("int8", None, verdict=None, status="failed", reason="no GPU"), 0.01)
    assert failed.name is None and "could not be judged" in failed.why


def bounded(*rows, batch=1, device=None, **asked):
    constraints = Constraints(**asked)
    bounds = limits(constraints, Device(**(device or {})), batch)
    return choose(rows, constraints.objective, 0.01, "plain", 0.02, batch, bounds, constraints.percentile)


def test_a_limit_of_size_is_held_though_another_is_faster():
    rows = [row("plain", 10, size=4 * MIB), row("fast", 4, size=3 * MIB), row("small", 6, size=MIB)]
    assert bounded(*rows).name == "fast"
    assert bounded(*rows, max_size_mib=2).name == "small"
    assert bounded(*rows, device={"flash_mib": 2}).name == "small"
    assert bounded(*rows, max_size_mib=3.5, device={"flash_mib": 2}).name == "small"


def test_a_limit_of_latency_is_held_though_another_is_smaller():
    rows = [row("plain", 10, size=100), row("fast", 4, size=3000), row("small", 6, size=50)]
    assert bounded(*rows, objective="size").name == "small"
    found = bounded(*rows, objective="size", max_latency_ms=5)
    assert found.name == "fast" and found.closest is None


def test_samples_a_second_count_the_batch():
    rows = [row("plain", 10), row("fast", 4, size=9000)]
    assert bounded(*rows, objective="size", min_throughput=1500, batch=16).name == "plain"
    assert bounded(*rows, objective="size", min_throughput=2000, batch=16).name == "fast"


def test_where_no_candidate_meets_all_limits_the_nearest_enters_and_is_said_not_to():
    rows = [row("plain", 10, memory=300 * MIB), row("int8", 4, memory=200 * MIB), row("lossy", 1, 0.2, "exceeds")]
    found = bounded(*rows, max_latency_ms=2, max_memory_mib=150)
    assert found.name == found.closest == "int8"
    assert "4 ms where 2 ms, 200 MiB of resident memory where 150 MiB of resident memory is the limit" in found.why


def test_a_percentile_is_what_is_looked_at():
    slow_tail = row("tail", 3)
    slow_tail = slow_tail.model_copy(update={"latency": slow_tail.latency.model_copy(update={"p99_ms": 30.0})})
    assert bounded(row("plain", 10), slow_tail).name == "tail"
    assert bounded(row("plain", 10), slow_tail, percentile=99).name == "plain"
    assert bounded(row("plain", 10), slow_tail, percentile=99, max_latency_ms=9, objective="size").closest == "plain"


def test_what_was_not_measured_holds_no_limit():
    unknown = row("plain", 10).model_copy(update={"peak_memory_bytes": None})
    found = bounded(unknown, max_memory_mib=1000)
    assert found.closest == "plain" and "not measured where" in found.why


SEEN = st.tuples(
    st.sampled_from([1.0, 1.01, 1.015, 1.03, 2.0, 3.0]),  # ms, some of which cannot be told apart
    st.sampled_from([(0.0, "within"), (0.005, "cannot tell"), (0.02, "cannot tell"), (0.03, "exceeds")]),
    st.sampled_from([500, 1000, 2000, None]),
    st.sampled_from(["measured", "measured", "measured", "failed"]),
)


@given(st.lists(SEEN, min_size=1, max_size=7), st.sampled_from(["latency", "size", "throughput"]), st.booleans())
def test_who_is_judged_in_turn_is_who_would_be_chosen_of_all(seen, objective, bounded):
    every = {
        f"{place}": row(f"{place}", ms, *judged, size=size, status=status)
        for place, (ms, judged, size, status) in enumerate(seen)
    }
    bounds = limits(Constraints(max_latency_ms=1.5, max_size_mib=1000 / MIB), Device(), 1) if bounded else []
    known = {name: one.model_copy(update={"validate_": None}) for name, one in every.items()}
    asked = []
    while name := pending(list(known.values()), objective, 0.01, 0.02, bounds):
        asked.append(name)
        known[name] = every[name]
    assert len(set(asked)) == len(asked)
    of_all, of_few = (
        choose(list(rows.values()), objective, 0.01, "0", 0.02, bounds=bounds) for rows in (every, known)
    )  # fmt: skip
    assert (of_few.name, of_few.closest) == (of_all.name, of_all.closest)


def test_once_one_holds_the_limit_what_is_slower_is_not_judged():
    rows = [
        row("slow", 9, verdict=None),
        row("fast", 2, 0.02, "exceeds"),
        row("good", 4),
        row("close", 4.05, verdict=None),
    ]
    assert pending(rows, "latency", 0.01, 0.02) is None
    unsure = [*rows[:2], row("good", 4, 0.005, "cannot tell"), rows[3]]
    assert pending(unsure, "latency", 0.01, 0.02) == "close"  # as good, and may be within the limit for sure
