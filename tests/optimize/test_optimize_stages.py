from types import SimpleNamespace

import numpy as np
import pytest
from test_optimize_report import accuracy, latency, ratio, row

from optimize import metrics, stages
from optimize.deadline import Deadline
from optimize.evaluate import Scores
from optimize.metrics import Rows
from optimize.report import tables, words


@pytest.mark.parametrize("each", [1, 3])
def test_what_was_given_up_is_judged_by_the_samples_that_it_answered(monkeypatch, each):
    right, half = np.ones((40 * each, 1)), np.tile([[1.0], [0.0]], (4 * each, 1))
    answered = {
        stages.ORIGINAL: Rows(right, np.full(40, each)),
        "bad": Rows(half, np.full(8, each)),
    }
    scores = Scores(answered, {}, {}, {}, {"bad": "too bad"})
    monkeypatch.setattr(stages, "evaluate", lambda *_, **__: scores)
    nothing = SimpleNamespace(contender=None, progress=None, log=None)
    subject = SimpleNamespace(
        choice=None, choice_samples=40, metric=metrics.get("accuracy"), contender=None, evaluate_batch=8,
        own_labels=True, fixed=False,
    )  # fmt: skip
    asked = SimpleNamespace(steps="auto", constraints=SimpleNamespace(max_drop=0.1))
    run = stages.Run(asked, subject, [], {"bad": nothing}, None, None)
    rows = {name: row(name, status="built, not measured") for name in (stages.ORIGINAL, "bad")}
    found, max_drop = stages.accuracy(run, rows, "validate_", None)
    assert max_drop == 0.1
    assert (found["bad"].status, found["bad"].reason) == ("dropped", "too bad")
    assert (found["bad"].validate_.samples, found["bad"].validate_.drop) == (8, 0.5)


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_a_search_is_said_to_have_ended_early_where_its_time_was_up_and_nowhere_else(seconds):
    deadline = Deadline(seconds)
    run = SimpleNamespace(deadline=deadline, candidates=[1, 2, 3])
    noisy = {"a": row("a", status="dropped", reason="only 2.0 dB of its signal are above its noise")}
    assert stages.ended_early(run, noisy, ["a was not repaired: b holds the limit"], 70.0) == ""
    if seconds:
        late = {**noisy, "b": row("b", status="dropped", reason=f"it was not made: {deadline.why}")}
        assert stages.ended_early(run, late, [], 70.4).startswith(
            "the 60 s of --time were used up, 1 of 3 candidates were not made; the run took 70 s"
        )
        unmended = [f"a was not repaired: {deadline.why}"]
        assert ", 0 of 3 candidates" in stages.ended_early(run, noisy, unmended, 70.4)


def test_a_search_judges_on_test_what_it_chose_what_that_stands_beside_and_what_nothing_beats():
    names = {"t-fp32": "plain", "t-default": "vendor", "t-good": "steps", "t-fast": "steps", "t-beaten": "steps"}
    run = stages.Run(
        SimpleNamespace(steps="auto", targets={"t": {}}, looks_once=lambda: False), None,
        [SimpleNamespace(name=name, role=role, target=SimpleNamespace(name="t")) for name, role in names.items()],
        {}, None, None,
    )  # fmt: skip
    seen = {"t-fp32": (1.0, 0.0), "t-default": (1.0, 0.0), "t-good": (2.0, 0.0), "t-fast": (3.0, 0.02),
            "t-beaten": (1.5, 0.01)}  # fmt: skip
    rows = {
        name: row(name, validate=accuracy(drop=drop), latency=latency(1 / times, ratio(times)), size_bytes=1)
        for name, (times, drop) in seen.items()
    }
    assert stages.shown(run, rows, {"t": "t-good"}) == {"t-fp32", "t-default", "t-good", "t-fast"}
    for asked, shown in (((), False), None), (("auto", True), {"t-good"}):
        steps, once = asked
        run.asked.steps, run.asked.looks_once = steps, lambda once=once: once
        assert stages.shown(run, rows, {"t": "t-good"}) == shown


def test_a_quick_run_judges_the_fastest_first_and_says_of_the_others_that_it_did_not(finished):
    report, _ = finished
    unjudged = [one for one in report.candidates if one.validate_ is None]
    assert unjudged and not {one.name for one in unjudged} & {*report.chosen.values()}
    for one in unjudged:
        chosen = report.row(report.chosen[one.target])
        assert (one.status, one.reason, one.accuracy) == ("measured", stages.UNJUDGED, None)
        assert chosen.validate_.verdict == "within" and one.latency.ratio <= chosen.latency.ratio * 1.03
    assert "Without accuracy: it would not be chosen whatever that came to" in words.measured_how(report)
    cells = {line.cells[0].text: line.cells for line in tables.candidates(report).lines}
    reasons = tables.candidates(report).notes
    assert all(reasons[cells[one.name][2].note - 1] == stages.UNJUDGED for one in unjudged)
