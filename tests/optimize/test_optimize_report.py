import json as json_module
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from optimize.report import (
    Accuracy,
    Data,
    Final,
    Headline,
    Latency,
    RatioPart,
    Report,
    Row,
    SplitFacts,
    Timing,
    json,
    markdown,
    plain,
    terminal,
    words,
)

CANNOT_TELL = "CANNOT TELL on test whether openvino-int8 stays within 1.00 pp: drop +0.40 [-0.30, +1.10] pp"


def accuracy(value=0.9, drop=0.0, low=-0.002, high=0.002, verdict="within", more=None):
    return Accuracy(
        metric="accuracy", value=value, drop=drop, low=low, high=high, verdict=verdict, samples=1000,
        samples_that_tell=more,
    )  # fmt: skip


def ratio(value, verdict="faster"):
    return RatioPart(ratio=value, low=value * 0.98, high=value * 1.02, verdict=verdict)


def latency(ms, part=None):
    both = (ms * 0.9, ms * 1.1)
    return Latency(
        p50_ms=ms, p50_interval_ms=both, p90_ms=ms, p90_interval_ms=both, p99_ms=ms, p99_interval_ms=both,
        rounds=2, samples=4, raw=[[1, 2], [3, 4]], **(part.model_dump() if part else {}),
    )  # fmt: skip


def row(name, **changes):
    target = name.partition("-")[0]
    content = {
        "name": name, "target": target, "engine": target, "status": "measured", "precision": "f32 7 of 7 ops",
        "validate": accuracy(), "accuracy": accuracy(), "latency": latency(5.0, ratio(2.0)), "threads": 2,
        "cold_start_ms": 80.0, "size_bytes": 2**20, "peak_memory_bytes": 2**26, **changes,
    }  # fmt: skip
    return Row(**content)


def timing(**changes):
    content = {"rounds": 8, "stopped": "precision", "floor": 0.01, "margin": 0.02, "quiet": "CPU time", "restless": 0}
    return Timing(**{**content, **changes})


def report(rows=None, final=None, times=None, **changes):
    """A report in which all went well, but for what is changed."""
    rows = rows or [row("openvino-fp32"), row("openvino-int8", precision="int8 5 of 7 ops")]
    final = final or Final(
        name="openvino-int8", latency=latency(4.0, ratio(2.5)), ratio_to_plain=ratio(1.5), ratio_to_default=None
    )
    splits = {name: SplitFacts(samples=1000, sha256="0" * 64) for name in ("calibrate", "validate", "test")}
    content = {
        "made_with": {"edge-optimize": "0.1.0"}, "made_at": "2026-11-24T00:00:00+00:00", "seconds": 12.0,
        "machine": {"cpu": "A CPU", "cores": 2}, "recipe": {"steps": []},
        "data": Data(place="d.npz", labels=True, metric="accuracy", unit="share", higher_is_better=True, splits=splits),
        "inputs": ["x: float32[batch, 3]"], "outputs": ["y: float32[batch, 2]"], "batch": 1, "max_drop": 0.01,
        "objective": "latency", "candidates": rows, "screening": timing(rounds=3, stopped="rounds"),
        "original": row("original", target=None, engine="torch", latency=latency(10.0)),
        "headline": Headline(timing=times or timing(), original=latency(10.0), targets={"openvino": final}),
        "chosen": {"openvino": "openvino-int8"}, "why": {"openvino": "best of 2 by latency"}, "closest": {},
        "notes": ["a note of the run"], "exit_code": 0, "bundle": "bundle", **changes,
    }  # fmt: skip
    return Report(**content)


UNSURE = accuracy(0.896, 0.004, -0.003, 0.011, "cannot tell", 1234)
EXCEEDED = accuracy(0.8, 0.1, 0.08, 0.12, "exceeds")

# What must stand on the first lines, and the report that it follows from.
FIRST = {
    f"{CANNOT_TELL} from 1,000 samples; 1,234 samples would tell.": lambda: report(
        [row("openvino-fp32"), row("openvino-int8", accuracy=UNSURE)]
    ),
    "CANNOT TELL on validate whether openvino-int8": lambda: report(
        [row("openvino-fp32"), row("openvino-int8", validate=UNSURE)]
    ),
    "EXCEEDS on test: openvino-int8 loses 10.00 pp, more than 1.00 pp.": lambda: report(
        [row("openvino-fp32"), row("openvino-int8", accuracy=EXCEEDED)]
    ),
    "NOT MET on openvino: no candidate holds 1.00 pp; the closest is openvino-int8.": lambda: report(
        chosen={"openvino": "openvino-fp32"}, closest={"openvino": "openvino-int8"}, exit_code=1
    ),
    "SLOWER than the original: openvino-int8, 0.50 x [0.49, 0.51].": lambda: report(
        [row("openvino-fp32"), row("openvino-int8", latency=latency(20.0, ratio(0.5, "slower")))],
        chosen={"openvino": "openvino-fp32"},
    ),
    "SLOWER than its plain fp32 engine: openvino-int8, 0.80 x [0.78, 0.82].": lambda: report(
        final=Final(
            name="openvino-int8", latency=latency(4.0, ratio(2.5)), ratio_to_plain=ratio(0.8, "slower"),
            ratio_to_default=None,
        )
    ),
    "SLOWER than its vendor's default: openvino-int8": lambda: report(
        final=Final(
            name="openvino-int8", latency=latency(4.0, ratio(2.5)), ratio_to_plain=None,
            ratio_to_default=ratio(0.8, "slower"),
        )
    ),
    "SLOWER than the original: openvino-int8, 0.90 x": lambda: report(
        final=Final(
            name="openvino-int8", latency=latency(11.0, ratio(0.9, "slower")), ratio_to_plain=None,
            ratio_to_default=None,
        )
    ),
    "ENDED EARLY: the 60 s of --time were used up.": lambda: report(early="the 60 s of --time were used up"),
    "NOISY: the original against itself cannot be told apart within ±7.0%": lambda: report(times=timing(floor=0.07)),
    "QUICK: the choice went by the 3 rounds": lambda: report(times=timing(rounds=3, stopped="rounds", floor=None)),
    "The last measurement ended by its budget after 8 rounds": lambda: report(times=timing(stopped="budget")),
    "CPU times cannot be read here": lambda: report(times=timing(quiet="fixed pause")),
    "3 blocks began while another contender's threads were still busy.": lambda: report(times=timing(restless=3)),
    "CANNOT BUILD HERE: tensorrt: no GPU": lambda: report(
        [row("openvino-int8"), row("tensorrt-int8", status="cannot build here", reason="no GPU", latency=None)]
    ),
    "FAILED: openvino-fp32: the step 'simplify': no such node": lambda: report(
        [row("openvino-int8"), row("openvino-fp32", status="failed", reason="the step 'simplify': no such node")]
    ),
    "WRONG: openvino-fp32: its output 'y' has NaN": lambda: report(
        [row("openvino-int8"), row("openvino-fp32", status="wrong", reason="its output 'y' has NaN")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", FIRST)
def test_what_must_be_known_first_stands_before_the_table_in_markdown(line):
    text = markdown.text(FIRST[line]())
    assert -1 < text.find(f"- **{line}") < text.index("| candidate | status |")


@pytest.mark.parametrize("line", FIRST)
def test_what_must_be_known_first_stands_before_the_table_on_the_terminal(line, capsys):
    terminal.show(FIRST[line](), Path("out"))
    text = " ".join(capsys.readouterr().out.split())  # the terminal breaks long lines
    assert -1 < text.find(line) < text.index("candidate status accuracy")


def test_where_all_went_well_nothing_comes_first(capsys):
    assert words.first_lines(report()) == []
    terminal.show(report(), Path("out"))
    assert capsys.readouterr().out.split()[:2] == ["candidate", "status"]


def test_each_thing_is_said_once():
    both = report(
        [row("openvino-fp32"), row("openvino-int8", accuracy=UNSURE, validate=UNSURE)], times=timing(floor=0.1)
    )
    lines = words.first_lines(both)
    assert len(lines) == len(set(lines)) == 3


def test_a_candidate_that_is_slower_but_not_quantized_is_no_news():
    slow = row("openvino-fp32", latency=latency(20.0, ratio(0.5, "slower")))
    assert words.first_lines(report([slow, row("openvino-int8")])) == []


def test_the_table_has_the_figures_and_marks_the_chosen():
    header, original, plain_row, chosen = words.table(report())
    assert header[2] == "accuracy" and {len(cells) for cells in (header, original, plain_row, chosen)} == {9}
    assert original[:3] == ["original", "measured", "90.00%"] and original[5:7] == ["10.000", ""]
    assert plain_row[0] == "openvino-fp32" and chosen[0] == "openvino-int8 *"
    assert chosen[3:] == ["+0.00 [-0.20, +0.20] pp", "within", "5.000", "2.00 x [1.96, 2.04]", "faster", "1.00"]


def test_what_was_not_measured_is_an_empty_cell():
    lost = row("openvino-fp32", status="failed", accuracy=None, latency=None, size_bytes=None)
    assert words.table(report([lost, row("openvino-int8")]))[2] == ["openvino-fp32", "failed", *[""] * 7]


def test_figures_of_another_unit_are_not_percent():
    data = report().data.model_copy(update={"metric": "mse", "unit": ""})
    found = report(data=data, max_drop=0.25)
    assert words.drop_limit(found) == "0.25" and words.table(found)[1][2] == "0.9"
    assert words.interval(found, accuracy(drop=0.5, low=0.25, high=0.75)) == "+0.5 [+0.25, +0.75]"


@pytest.mark.parametrize("place", ["/a/way/data.py:sensitivity", r"C:\a\data.py:sensitivity", "data.py:sensitivity"])
def test_a_metric_of_the_users_own_is_shown_without_its_folder(place):
    found = report(data=report().data.model_copy(update={"metric": place}))
    assert words.table(found)[0][2] == "data.py:sensitivity" and found.data.metric == place
    assert "original's data.py:sensitivity minus" in markdown.text(found)


@pytest.mark.parametrize("form", ["markdown", "terminal"])
def test_the_chosen_its_ratios_and_the_machine_are_named(form, capsys):
    if form == "terminal":
        terminal.show(report(), Path("out"))
        text = " ".join(capsys.readouterr().out.split())
        assert "bundle out/bundle" in text and 'runtime.load("out/bundle")' in text
    else:
        text = markdown.text(report())
        assert "- a note of the run" in text and "with edge-optimize 0.1.0." in text
    assert "openvino: openvino-int8, p50 4 ms; 2.50 x [2.45, 2.55] the original's speed (faster)" in text
    assert "1.50 x [1.47, 1.53] plain fp32 (faster). Chosen: best of 2 by latency." in text
    assert "Measured on A CPU (2 cores) at batch 1; data: 1,000 calibrate, 1,000 validate, 1,000 test" in text


def test_the_gpus_are_named_with_the_processor():
    machine = {"cpu": "A CPU", "cores": 1, "gpus": ["NVIDIA H200, 580.159.04, 143771 MiB"]}
    assert "Measured on A CPU (1 core), NVIDIA H200 at batch 1;" in markdown.text(report(machine=machine))


def test_where_nothing_was_chosen_that_is_said(capsys):
    nothing = report(chosen={}, bundle=None, why={"openvino": "no candidate could be measured"})
    terminal.show(nothing, Path("out"))
    text = capsys.readouterr().out
    assert "openvino: nothing chosen; no candidate could be measured" in text and "no bundle;" in text


def test_markdown_rows_stay_rows():
    odd = row("openvino-fp32", precision="int8 | f32\nand more")
    lines = markdown.text(report([odd, row("openvino-int8")])).splitlines()
    (found,) = [line for line in lines if "and more" in line]
    assert found.startswith("| openvino-fp32 | openvino | int8 \\| f32 and more | 2 |")
    table = [line for line in lines if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {10, 8, 7}


# report.json


def test_the_schema_beside_it_is_that_of_the_report():
    assert json_module.loads(json.SCHEMA_FILE.read_text(encoding="utf-8")) == json.schema()


def test_the_schema_is_written_by_one_command(tmp_path):
    code = (
        "import runpy, pathlib, sys\n"
        "written = []\n"
        "pathlib.Path.write_text = lambda self, text, **settings: written.append((self.name, text))\n"
        "runpy.run_module('optimize.report.json', run_name='__main__')\n"
        "(name, text), = written\n"
        "assert name == 'schema.json'\n"
        "sys.stdout.write(text)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json_module.loads(done.stdout) == json.schema()


@pytest.mark.parametrize("make", [report, *FIRST.values()])
def test_report_json_fits_the_schema_and_is_read_back(make, tmp_path):
    made = make()
    path = json.write(made, tmp_path)
    content = json_module.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(json.schema())
    jsonschema.Draft202012Validator(json.schema()).validate(content)
    assert Report.model_validate_json(path.read_text(encoding="utf-8")) == made
    assert path.name == "report.json" and content["schema"] == 1
    assert content["candidates"][-1]["validate"]["metric"] == "accuracy"


@pytest.mark.parametrize(
    "change",
    [{"schema": "one"}, {"candidates": [{"name": "x"}]}, {"objective": "speed"}, {"surprise": 1}, {"batch": None}],
)
def test_the_schema_refuses_what_is_no_report(change):
    content = json_module.loads(report().model_dump_json(by_alias=True))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, **change}, json.schema())


def test_a_number_that_json_has_not_does_not_spoil_the_file(tmp_path):
    endless = RatioPart(ratio=2.0, low=0.0, high=float("inf"), verdict="cannot tell")
    made = report([row("openvino-fp32"), row("openvino-int8", latency=latency(5.0, endless))])
    content = json_module.loads(json.write(made, tmp_path).read_text(encoding="utf-8"), parse_constant=pytest.fail)
    jsonschema.validate(content, json.schema())


def test_a_row_is_found_by_name():
    assert report().row("openvino-int8").name == "openvino-int8"
    with pytest.raises(KeyError):
        report().row("original")


# results of the other commands


def test_plain_results_are_lines_and_tables(capsys):
    plain.show(
        {"size_mib": 1.23456, "inputs": ["a", "b"], "none": None, "ops": {"Conv": {"count": 3}, "Add": {"share": 0.5}}}
    )
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == [["size", "mib:", "1.235"], ["inputs:", "a,", "b"], ["none:"]]
    assert lines[3:] == [["ops", "count", "share"], ["Conv", "3"], ["Add", "0.5"]]


def test_a_plain_table_that_is_too_wide_becomes_blocks(capsys):
    plain.show({"models": {"a": {"why": "x" * 300}, "b": {"why": "short"}}})
    text = capsys.readouterr().out
    assert "x" * 300 in text and "    why: short" in text


def test_what_is_infinite_comes_back_from_json(tmp_path):
    import awkward_report

    report = awkward_report.with_finals()
    assert "Infinity" in json.write(report, tmp_path).read_text()
    assert json.read(tmp_path) == report


def test_what_was_not_judged_on_test_shows_validate_and_says_so():
    rows = [row("openvino-fp32"), row("openvino-int8"), row("openvino-other", accuracy=None, validate=accuracy(0.75))]
    found = report(rows)
    assert [cells[2] for cells in words.table(found)[1:]] == ["90.00%", "90.00%", "90.00%", "75.00% v"]
    assert "v: on validate; a search judges on test what it chose" in words.measured_how(found)
    assert " v: " not in words.measured_how(report())
