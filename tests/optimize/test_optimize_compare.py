"""The gate: expressions, intervals of two reports, and the forms that CI reads."""

import contextlib
import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize import gate_forms
from optimize.compare import as_json, compare
from optimize.gate import Change, parse
from optimize.judge import accuracy
from optimize.metrics import Rows, get
from optimize.report import Data, Headline, Latency, Report, Row, SplitFacts, Timing
from optimize.report import json as report_json
from optimize.report.packed import pack, unpack
from optimize.statistics import unpaired_drop
from runtime.errors import InputError
from runtime.intervals import unpaired

MACHINE = {"system": "Linux", "architecture": "x86_64", "cpu": "one", "cores": 2, "gpus": []}


def write(folder: Path, ms: float, right: np.ndarray, name="openvino-int8", sha="same", machine=MACHINE, **changed):
    """A report with one chosen candidate: its latency around `ms`, its answers right where `right` is."""
    random = np.random.default_rng(int(ms * 1000))
    raw = [[int(v * 1e6) for v in ms * random.normal(1, 0.005, 40) * random.normal(1, 0.004)] for _ in range(8)]
    both = (ms, ms)
    seen = Latency(
        p50_ms=ms, p50_interval_ms=both, p90_ms=ms, p90_interval_ms=both, p99_ms=ms, p99_interval_ms=both, ratio=2.0,
        low=1.9, high=2.1, verdict="faster", rounds=8, samples=320, raw=raw,
    )  # fmt: skip
    rows = Rows.of(right.astype(np.float64)[:, None])
    timing = Timing(rounds=8, stopped="rounds", floor=0.01, margin=0.02, quiet="CPU time", restless=0)
    row = Row(
        name=name, target="openvino", engine="openvino", status="measured", latency=seen, size_bytes=1000,
        accuracy=accuracy(get("accuracy"), rows, rows, 0.01), cold_start_ms=100.0,
    )  # fmt: skip
    final = {"name": name, "latency": seen.model_dump(), "ratio_to_plain": None, "ratio_to_default": None}
    report = Report(
        made_with={}, made_at="2026-01-01T00:00:00+00:00", machine=machine, recipe={},
        data=Data(place="data.npz", labels=True, metric="accuracy", unit="share", higher_is_better=True,
                  splits={"test": SplitFacts(samples=len(right), sha256=sha)}),
        inputs=[], outputs=[], batch=1, max_drop=0.01, objective="latency",
        original=Row(name="original", engine="torch", status="measured"), candidates=[row], screening=None,
        headline=Headline.model_validate({"timing": timing.model_dump(), "original": seen.model_dump(),
                                          "targets": {"openvino": final}}),
        chosen={"openvino": name}, why={}, closest={}, notes=[], seconds=1.0, exit_code=0, bundle="bundle",
    ).model_copy(update=changed)  # fmt: skip
    folder.mkdir()
    report_json.write(report, folder)
    return folder


def answers(lost=0, samples=1000):
    right = np.ones(samples)
    right[: 100 + lost] = 0
    return right


@pytest.fixture
def pair(tmp_path):
    return lambda ms=1.0, lost=0, **changed: (
        write(tmp_path / "old", 1.0, answers()), write(tmp_path / "new", ms, answers(lost), **changed)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ms", "lost", "conditions", "outcomes"),
    [
        (1.001, 0, ["latency > 5%", "accuracy < -0.5pp"], ["passed", "passed"]),
        (1.2, 0, ["latency > 5%"], ["failed"]),
        (1.2, 0, ["latency > 50%"], ["passed"]),
        (0.8, 0, ["latency > -1%"], ["passed"]),
        (1.05, 0, ["latency>5%"], ["cannot tell"]),
        (1.001, 40, ["accuracy < -0.5pp"], ["failed"]),
        (1.001, 5, ["accuracy < -0.5pp"], ["cannot tell"]),
        (1.001, 0, ["size > 0%"], ["passed"]),
        (1.001, 0, ["cold_start > 10%"], ["passed"]),
        (1.2, 40, ["latency > 5%", "accuracy < -0.01"], ["failed", "failed"]),
    ],
)
def test_the_gate(pair, ms, lost, conditions, outcomes):
    found = compare(*pair(ms, lost), conditions)
    assert [one.outcome for one in found.results] == outcomes
    assert found.failed(False) == ("failed" in outcomes)
    assert found.failed(True) == (outcomes != ["passed"] * len(outcomes))


def test_the_intervals_hold_what_is_true(pair):
    found = {line.figure: line for line in compare(*pair(1.1, 20), []).lines}
    change = found["latency"].change
    assert change.low < 0.1 < change.high and change.high - change.low < 0.03
    change = found["accuracy"].change
    assert change.value == pytest.approx(-0.02) and change.low < -0.02 < change.high < -0.01
    assert "paired" in found["accuracy"].note
    assert found["memory"].change is None


def test_other_samples_are_compared_unpaired_with_a_wider_interval(tmp_path):
    old = write(tmp_path / "old", 1.0, answers())
    widths = []
    for name, sha in (("same", "same"), ("others", "others")):
        (line,) = [x for x in compare(old, write(tmp_path / name, 1.0, answers(5), sha=sha), []).lines
                   if x.figure == "accuracy"]  # fmt: skip
        widths.append(line.change.high - line.change.low)
    assert "unpaired" in line.note and widths[1] > 3 * widths[0]


def test_unlike_machines_are_shown_and_never_put_into_one_ratio(pair):
    places = pair(2.0, machine={**MACHINE, "cpu": "another"})
    found = compare(*places, ["accuracy < -1pp"])
    assert not found.failed(True) and "unlike machines" in found.notes[0]
    (line,) = [one for one in found.lines if one.figure == "latency"]
    assert line.change is None and (line.old, line.new) == (1.0, 2.0)
    with pytest.raises(InputError, match=r"unlike machines \(cpu: one and another"):
        compare(*places, ["latency > 5%"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("latency", "write FIGURE > NUMBER"), ("latency >= 5%", "write FIGURE"),
        ("latncy > 5%", "did you mean 'latency'"),
        ("latency > 5pp", "write 5%"), ("accuracy < -1%", "write -1pp"), ("", "write FIGURE"), ("latency > x", "write"),
    ],
)  # fmt: skip
def test_an_expression_that_is_none_is_explained(pair, text, says):
    with pytest.raises(InputError, match=says):
        compare(*pair(), [text])


@given(st.text())
def test_any_text_is_an_expression_or_refused(text):
    with contextlib.suppress(InputError):
        assert parse(text).figure


@given(st.floats(-1, 1), st.floats(0, 1), st.booleans(), st.floats(-1, 1))
def test_an_outcome_follows_from_the_side_of_the_limit(low, width, above, limit):
    change = Change(low + width / 2, low, low + width)
    outcome = parse(f"accuracy {'>' if above else '<'} {limit:.6f}").judge(change)
    limit = float(f"{limit:.6f}")
    beyond = change.low > limit if above else change.high < limit
    assert (outcome == "failed") == beyond
    if outcome == "cannot tell":
        assert change.low <= limit <= change.high


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"schema": 99}', "format 99"),
        ('{"schema": 1}', "damaged"),
        (None, "no report"),
    ],
)
def test_a_report_that_is_none_is_explained(pair, content, says):
    old, new = pair()
    file = new / "report.json"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(InputError, match=says):
        compare(old, new, [])


def test_what_was_not_timed_is_not_known_to_be_worse(pair):
    old, new = pair()
    report = report_json.read(new)
    rows = [row.model_copy(update={"latency": None}) for row in report.candidates]
    report_json.write(report.model_copy(update={"candidates": rows, "headline": None}), new)
    found = compare(old, new, ["latency > 5%"])
    assert [one.outcome for one in found.results] == ["cannot tell"] and found.failed(True) and not found.failed(False)
    assert "not timed" in gate_forms.junit(found, False)


def test_no_target_in_common(pair):
    with pytest.raises(InputError, match="no target in common"):
        compare(*pair(chosen={}), [])


def test_the_forms_that_ci_reads(pair, tmp_path):
    found = compare(*pair(1.2, 5), ["latency > 5%", "accuracy < -0.5pp", "size > 1%"])
    places = [tmp_path / name for name in ("junit.xml", "table.csv", "summary.md")]
    places[2].write_text("what was there\n")
    gate_forms.write(found, False, *places)
    suite = ElementTree.parse(places[0]).getroot()
    assert suite.attrib == {"name": "optimize compare", "tests": "3", "failures": "1", "skipped": "1", "errors": "0"}
    assert [[child.tag for child in case] for case in suite] == [["failure"], ["skipped"], []]
    strict = ElementTree.fromstring(gate_forms.junit(found, True))
    assert strict.attrib["failures"] == "2"
    rows = list(csv.DictReader(io.StringIO(places[1].read_text())))
    assert [row["figure"] for row in rows] == ["latency", "accuracy", "size", "memory", "cold_start"]
    assert 0.15 < float(rows[0]["low"]) < float(rows[0]["high"]) < 0.25
    text = places[2].read_text()
    assert (
        text.startswith("what was there\n## optimize compare: failed")
        and "| openvino | latency > 5% | failed |" in text
    )
    with pytest.raises(InputError, match="cannot write"):
        gate_forms.write(found, False, tmp_path / "no" / "folder.xml", None, None)
    assert json.dumps(as_json(found, False))


def test_the_command(pair, tmp_path):
    old, new = pair(1.2)

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "optimize", "compare", old, new, *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert run().returncode == 0
    shut = run("--fail-if", "latency > 5%", "--json", "--csv", tmp_path / "a.csv")
    assert shut.returncode == 1 and json.loads(shut.stdout)["failed"] is True and (tmp_path / "a.csv").exists()
    wrong = run("--fail-if", "nonsense > 1")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1


# --- what it is reckoned with


@given(st.lists(st.lists(st.integers(0, 2**40), max_size=5), max_size=5))
def test_numbers_are_packed_and_unpacked(value):
    assert unpack(pack(value)) == value


@pytest.mark.parametrize("text", ["not base64!", "bm90IHpsaWI=", "eJw="])
def test_what_was_not_packed_is_refused(text):
    with pytest.raises(ValueError):
        unpack(text)


def test_unpaired_intervals_cover():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        runs = [[np.exp(random.normal(random.normal(0, 0.02), 0.01, 30)) for _ in range(8)] for _ in range(2)]
        found = unpaired(*runs)
        held += found.low <= 1 <= found.high
    assert 0.92 <= held / 400 <= 0.98
    assert unpaired(runs[0][:1], runs[1][:1]).high > 1e300, "of one round nothing is known"


def test_unpaired_shares_cover_and_have_a_width_where_all_are_right():
    random = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        sets = [(random.random(150) < 0.9).astype(float)[:, None] for _ in range(2)]
        drop = unpaired_drop(*sets, lambda rows: float(rows.mean()), True)
        held += drop.low <= 0 <= drop.high
    assert 0.88 <= held / 1000 <= 0.94
    right = np.ones((100, 1))
    drop = unpaired_drop(right, right, lambda rows: float(rows.mean()), True)
    assert drop.low < 0 < drop.high
