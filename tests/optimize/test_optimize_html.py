import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import awkward_report
import pytest
import tomllib
from test_optimize_report import accuracy, latency, ratio, report, row, timing

from optimize import recipe
from optimize.report import Accuracy, Final, Headline, drawing, html, plots, tables, toml, verdict, words

VOID = {"meta", "link", "br", "hr", "img", "input"}
MAX_BYTES = 3 * 2**20


class Page(HTMLParser):
    """What a page holds: its elements, whether each is closed in order, and the text outside script and style."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.words, self.declared = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        assert len(attrs) == len(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes {self.open}"

    def handle_decl(self, decl):
        self.declared.append(decl)

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


MAKERS = {
    "good": report,
    "awkward": awkward_report.make,
    "finals": awkward_report.with_finals,
    "nothing": lambda: report(
        [row("openvino-fp32", status="failed", reason="boom", latency=None, accuracy=None)],
        chosen={}, headline=None, screening=None, bundle=None, exit_code=1, why={"openvino": "nothing ran"},
        original=row("original", target=None, engine="torch", latency=None, accuracy=None, validate=None),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Each report's page, written once: (path, text, parsed)."""
    found = {}
    for name, make in MAKERS.items():
        path = html.write(make(), tmp_path_factory.mktemp(name))
        text = path.read_text(encoding="utf-8")
        found[name] = (path, text, Page(text))
    return found


@pytest.mark.parametrize("name", MAKERS)
def test_it_is_one_well_formed_file_that_loads_nothing(pages, name):
    path, text, page = pages[name]
    assert path.name == "report.html" and path.stat().st_size < MAX_BYTES
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    assert page.declared == ["doctype html"]
    assert not {"iframe", "object", "embed", "base", "form", "audio", "video"} & set(page.tags)
    for tag, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
            picture = tag == "img" and re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", value)
            assert picture or value.startswith("#") or (tag, value) == ("link", "data:,"), (tag, name, value)
        assert not name.startswith("on")
    outside = re.sub(r"<(pre|p|li|td|span|small)[^>]*>[^<]*", "", text)  # what is read may name a place
    assert "@import" not in outside and not re.search(r"url\((?!#)", outside) and "://" not in outside


@pytest.mark.parametrize("name", MAKERS)
def test_no_two_elements_share_an_id(pages, name):
    ids = [value for _, attribute, value in pages[name][2].attributes if attribute == "id"]
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:href="#|url\(#)([^")]+)', pages[name][1])
    assert set(wanted) <= set(ids)


@pytest.mark.parametrize("name", ["awkward", "finals"])
def test_names_of_users_are_text_and_never_markup(pages, name):
    _, text, page = pages[name]
    assert page.tags.count("script") == 1 and page.tags.count("style") == 1
    assert "<script>alert" not in text and f"openvino-{awkward_report.SCRIPT}" in page.text
    assert "A CPU & <b>more</b> (1 core), batch 1" in page.text
    assert "a$b$" in page.text  # not read as a formula by the plots
    assert "script-src 'sha256-" in text and "default-src 'none'" in text


@pytest.mark.parametrize("name", MAKERS)
def test_what_must_be_known_first_stands_between_the_verdict_and_the_figures(pages, name):
    page = pages[name][2]
    made = MAKERS[name]()
    sentence = verdict.sentence(made)
    assert page.text.count(" ".join(sentence.split())) == 1
    at = page.text.index(sentence)
    for line in words.first_lines(made):
        found = page.text.index(" ".join(html._warning(line)[1].split()))
        assert at < found < page.text.index(" Chosen ")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("NOT MET on x: no candidate", ("NOT MET", "on x: no candidate", "bad")),
        ("CANNOT BUILD HERE: tensorrt: no GPU", ("CANNOT BUILD HERE", "tensorrt: no GPU", "")),
        ("CANNOT TELL on test whether A B", ("CANNOT TELL", "on test whether A B", "")),
        ("WRONG: NAME: its output", ("WRONG", "NAME: its output", "bad")),
        ("CPU times cannot be read here", ("NOTE", "CPU times cannot be read here", "")),
        ("3 blocks began", ("NOTE", "3 blocks began", "")),
    ],
)
def test_the_word_that_says_what_is_the_matter_stands_apart(line, found):
    assert html._warning(line) == found


def test_the_machine_stands_beside_figures(pages):
    assert pages["good"][2].text.count("A CPU (2 cores), batch 1") == 5


def test_every_section_that_is_promised_is_there(pages):
    for _, _, page in pages.values():
        for title in (
            "Chosen", "Candidates", "Accuracy and latency", "Latency distributions", "What each step did", "What ran",
            "Machine, data and versions", "Do it again", "The recipe",
        ):  # fmt: skip
            assert f" {title} " in page.text
    assert pages["good"][2].tags.count("svg") == 4 and pages["awkward"][2].tags.count("table") == 12
    assert "Where the accuracy went" in pages["awkward"][2].text and "Where the accuracy" not in pages["good"][2].text
    for title in (
        "Why it is (not) faster", "On devices", "layer by layer", "each layer alone in int8",
        "Samples whose answer moved most",
    ):  # fmt: skip
        assert title in pages["awkward"][2].text and title not in pages["good"][2].text
    assert pages["awkward"][2].tags.count("img") == 4
    assert "What each step did This report has nothing to show here." in pages["good"][2].text
    assert "model = runtime.load" in pages["good"][2].text and "model = runtime.load" not in pages["nothing"][2].text
    assert "a note of the run" in pages["good"][2].text


def test_where_there_is_nothing_to_draw_the_page_says_so(pages):
    page = pages["nothing"][2]
    assert page.tags.count("svg") == 0 and page.text.count("Not drawn: there are no figures for it.") == 2


def test_headers_are_buttons_and_say_how_they_sort(pages):
    page = pages["good"][2]
    heads = [value for tag, name, value in page.attributes if (tag, name) == ("th", "aria-sort")]
    assert heads and set(heads) == {"none"}
    assert page.tags.count("button") == len(heads) + 3  # and the theme's, and one a text to copy


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("make", [tables.candidates, tables.latencies, tables.made, tables.ran])
def test_no_cell_is_empty_without_a_reason(make, maker):
    table = make(MAKERS[maker]())
    for line in table.lines:
        assert len(line.cells) == len(table.columns)
        for cell, (_, number) in zip(line.cells, table.columns, strict=True):
            assert bool(cell.text) != bool(cell.note)
            assert cell.text == "" or cell.key is not None
            if cell.note:
                assert table.notes[cell.note - 1] == cell.reason and cell.key is None
            elif number:
                float(cell.key)


def test_a_figure_that_was_not_measured_is_a_dash_with_what_became_of_it():
    table = tables.candidates(awkward_report.make())
    lines = {line.cells[0].text: line.cells for line in table.lines}
    assert lines["$x^{"][5].reason == "wrong: its output has NaN" and not lines["$x^{"][5].text
    assert lines["tensorrt-int8"][6].reason == "cannot build here: no GPU" and lines["tensorrt-int8"][2].text == "0.7"
    assert lines["no accuracy"][3].reason == "not judged on test" and lines["no accuracy"][5].text == "4.000"
    assert lines["original"][6].reason == "the original is the yardstick"
    assert lines[f"openvino-{awkward_report.SCRIPT}"][6].beside.endswith("inf]")


def test_steps_that_candidates_share_are_told_once():
    def made(*names):
        seconds = {"export": 1.0, "simplify": 0.5, "quantize_static": 2.0}
        return [
            {"use": n, "seconds": seconds[n], "size_bytes": 2**18 if "quant" in n else 2**20, "macs": 8} for n in names
        ]

    plain, small = made("export", "simplify"), made("export", "simplify", "quantize_static")
    other = row("onnxruntime-fp32", made=plain, accuracy=accuracy(0.91))
    table = tables.made(report([row("openvino-fp32", made=plain), other, row("openvino-int8", made=small)]))
    cells = [[cell.text for cell in line.cells] for line in table.lines]
    assert [line[:2] for line in cells] == [
        ["export", "all"], ["simplify", "all"], ["quantize_static", "openvino-int8"],
    ]  # fmt: skip
    assert [line[5] for line in cells] == ["", "90.00% to 91.00%", "90.00%"]
    assert table.lines[2].cells[2].beside == "−75.0 %" and table.lines[2].cells[4].beside == ""
    assert [line.kind for line in table.lines] == ["candidate", "candidate", "chosen"]


# The verdict.


def test_the_verdict_of_a_good_report():
    assert verdict.sentence(report()) == (
        "openvino-int8 runs 2.50 times [2.45, 2.55] as fast as the original, and its accuracy stays within the "
        "1.00 pp that it may lose."
    )
    assert verdict.tone(report()) == "good"


def _final(kind, value):
    final = Final(
        name="openvino-int8", latency=latency(4.0, ratio(value, kind)), ratio_to_plain=None, ratio_to_default=None
    )
    return report(final=final)


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("slower", 0.5, "is slower than the original: 0.50 times [0.49, 0.51] as fast; its accuracy stays within"),
        ("no difference", 1.0, "is as fast as the original, as far as can be told: 1.00 times [0.98, 1.02]; its"),
        ("cannot tell", 1.1, "may or may not be faster than the original: 1.10 times [1.08, 1.12] as fast; its"),
    ],
)
def test_the_verdict_claims_no_speed_that_was_not_seen(kind, value, said):
    assert said in verdict.sentence(_final(kind, value)) and verdict.tone(_final(kind, value)) == "caution"


@pytest.mark.parametrize(
    ("seen", "code", "said", "tone"),
    [
        (accuracy(0.8, 0.1, 0.08, 0.12, "exceeds"), 1, "its accuracy loses 10.00 pp on test, more than the", "bad"),
        (accuracy(0.8, 0.0, -0.1, 0.1, "cannot tell"), 0, "cannot be told from 1,000 test samples", "caution"),
        (None, 0, "its accuracy on test was not measured", "caution"),
    ],
)
def test_the_verdict_hides_no_loss(seen, code, said, tone):
    found = report([row("openvino-fp32"), row("openvino-int8", accuracy=seen)], exit_code=code)
    assert said in verdict.sentence(found) and verdict.tone(found) == tone


def test_the_verdict_where_a_target_has_none_and_where_nothing_was_timed():
    unmet = report(closest={"onnxruntime": "onnxruntime-int8"})
    assert verdict.sentence(unmet).endswith("; on onnxruntime no candidate holds the limit.")
    own = report(closest={"openvino": "openvino-int4"}, exit_code=1)
    assert "it enters because no candidate for openvino holds the limit" in verdict.sentence(own)
    slow = report(closest={"openvino": "openvino-int8"}, exit_code=1)  # it holds the accuracy, not the time
    assert verdict.sentence(slow).endswith("; it does not meet all limits.")
    assert verdict.tone(unmet) == verdict.tone(own) == verdict.tone(slow) == "bad"
    untimed = report(headline=Headline(timing=timing(), original=latency(10.0), targets={}))
    assert "its latency was not measured here" in verdict.sentence(untimed)
    nothing = report(chosen={}, why={"openvino": "nothing ran"})
    assert verdict.sentence(nothing) == "Nothing was chosen: openvino: nothing ran."


def test_several_chosen_engines_are_counted():
    rows = [row("openvino-int8"), row("onnxruntime-int8")]
    finals = {
        one.target: Final(name=one.name, latency=latency(ms, ratio(2)), ratio_to_plain=None, ratio_to_default=None)
        for one, ms in zip(rows, (4.0, 3.0), strict=True)
    }
    found = report(
        rows, chosen={one.target: one.name for one in rows}, why={one.target: "best" for one in rows},
        headline=Headline(timing=timing(), original=latency(10.0), targets=finals),
    )  # fmt: skip
    assert verdict.sentence(found).startswith("Of 2 chosen engines onnxruntime-int8, with the lowest p50, runs 2.00")


# The plots.


def test_drawing_is_the_same_twice_quiet_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit('a file of the user, not ours')")
    found = [plots.draw(awkward_report.make()) for _ in range(2)]
    assert found[0] == found[1] and found[0].why_not == {}
    assert set(found[0].svg) == {
        f"{name}_{size}" for name in ("scatter", "distributions") for size in ("wide", "narrow")
    }
    assert capfd.readouterr() == ("", "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["json.py"]


def test_the_plots_take_their_colours_and_their_font_from_the_page():
    for svg in plots.draw(report()).svg.values():
        assert "font-family" not in svg and "<style" not in svg and not re.search(r"#0\d0\d0\d\b", svg)
        assert {"var(--ink)", "var(--accent)"} <= set(re.findall(r"var\(--\w+\)", svg))
        assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg)) <= {
            "none", *(f"var(--{name})" for name in drawing.COLOURS),
        }  # fmt: skip


def test_a_drawing_that_fails_is_told_and_the_page_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    text = Page(html.write(report(), tmp_path).read_text(encoding="utf-8")).text
    assert text.count("Not drawn: it could not be drawn: exit code 1.") == 2
    assert "2.50 times [2.45, 2.55]" in text


def test_importing_the_page_loads_neither_matplotlib_nor_jinja():
    code = "import sys, optimize.report.html; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_front_is_what_no_other_beats():
    import numpy as np

    x, y = np.array([1.0, 2.0, 2.0, 3.0, 4.0, 0.5]), np.array([5.0, 7.0, 6.0, 6.5, 9.0, 1.0])
    assert drawing.pareto(x, y) == [5, 0, 1, 4]
    assert drawing.pareto(np.array([1.0, 1.0]), np.array([2.0, 2.0])) == [0]


def test_an_interval_of_a_drop_is_shown_on_the_right_side_of_the_value():
    seen = Accuracy(metric="m", value=0.8, drop=0.1, low=0.05, high=0.2, verdict="within", samples=9)
    assert plots.values_of(seen, 0.9, True) == pytest.approx([0.7, 0.85])
    assert plots.values_of(seen, 0.7, False) == pytest.approx([0.75, 0.9])


# The recipe.


@pytest.mark.parametrize("path", sorted(Path(recipe.__file__).parent.rglob("examples/*/recipe.toml")), ids=str)
def test_the_recipe_of_a_report_is_the_recipe_again(path):
    asked = recipe.load(path)
    again = recipe.from_table(tomllib.loads(toml.text(asked.plain())), path.parent)
    assert again.plain() == asked.plain()


def test_any_table_survives_being_written_as_toml():
    table = {
        "model": {"path": 'a "quoted" \\ path\n\x7f\x01', "inputs": {"a b.c": {"shape": ["n", 3]}}},
        "steps": [{"use": "x", "vendor": {"deep": {"er": [1, 2.5, True, "ü"]}, "": 1e-9}}, {"use": "y"}],
        "targets": {"openvino": {}, "b": {"vendor": {"c": {"d": {"e": []}}}}}, "top": float("-inf"), "empty": [],
    }  # fmt: skip
    assert tomllib.loads(toml.text(table)) == table
    assert tomllib.loads(toml.text({"a": {"b": None, "c": 1}, "d": None})) == {"a": {"c": 1}}
