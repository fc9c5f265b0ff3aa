"""A comparison in the forms that CI reads: JUnit XML, a CSV table, a GitHub step summary in Markdown."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from optimize.compare import Comparison, Line, Result
from optimize.gate import Change
from runtime.errors import InputError


def write(found: Comparison, strict: bool, as_junit: Path | None, as_csv: Path | None, as_summary: Path | None) -> None:
    """Write the forms that are asked for; the summary is appended, as CI wants it.

    Raises:
        InputError: a file cannot be written.
    """
    forms: tuple[tuple[Path | None, str, Callable[[], str]], ...] = (
        (as_junit, "w", lambda: junit(found, strict)),
        (as_csv, "w", lambda: table(found)),
        (as_summary, "a", lambda: summary(found, strict)),
    )
    for path, mode, text in forms:
        if path is None:
            continue
        try:
            with path.open(mode, encoding="utf-8") as stream:
                stream.write(text())
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror or error}.") from error


def junit(found: Comparison, strict: bool) -> str:
    """A test case for each condition and target; `cannot tell` is skipped, with `strict` failed."""
    cases = ElementTree.Element("testsuite", name="optimize compare")
    counts = {"tests": len(found.results), "failures": 0, "skipped": 0, "errors": 0}
    for one in found.results:
        case = ElementTree.SubElement(cases, "testcase", classname=one.line.target, name=one.condition.text)
        if one.outcome == "passed":
            continue
        kind = "failure" if one.outcome == "failed" or strict else "skipped"
        counts["failures" if kind == "failure" else "skipped"] += 1
        ElementTree.SubElement(case, kind, message=f"{one.outcome}: {_result(one)}")
    cases.attrib.update({name: str(count) for name, count in counts.items()})
    ElementTree.indent(cases)
    return ElementTree.tostring(cases, encoding="unicode", xml_declaration=True) + "\n"


def table(found: Comparison) -> str:
    """CSV: a line for each figure of each target."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("target", "figure", "old", "new", "change", "low", "high", "note"))
    for line in found.lines:
        change = line.change
        bounds = (change.value, change.low, change.high) if change else (None,) * 3
        writer.writerow((line.target, line.figure, line.old, line.new, *bounds, line.note))
    return stream.getvalue()


def summary(found: Comparison, strict: bool) -> str:
    """Markdown, for $GITHUB_STEP_SUMMARY."""
    parts = []
    if found.results:
        parts += [f"## optimize compare: {'failed' if found.failed(strict) else 'passed'}", ""]
        parts += ["| target | must not be | outcome | change |", "| --- | --- | --- | --- |"]
        parts += [f"| {r.line.target} | {r.condition.text} | {r.outcome} | {_result(r)} |" for r in found.results]
        parts.append("")
    parts += ["| target | figure | old | new | change | |", "| --- | --- | --- | --- | --- | --- |"]
    parts += [f"| {' | '.join(cells(line))} |" for line in found.lines]
    parts += ["", *(f"- {note}" for note in found.notes), ""]
    return "\n".join(parts)


def cells(line: Line) -> tuple[str, ...]:
    """A line as text: target, figure, old, new, change, note."""
    values = ("" if value is None else f"{value:.6g}" for value in (line.old, line.new))
    return line.target, line.figure, *values, in_words(line.change, line.figure) if line.change else "", line.note


def in_words(change: Change, figure: str) -> str:
    """`+3.1% [+1.0, +5.2]`; an accuracy's in its own unit."""
    if figure == "accuracy":
        return f"{change.value:+.4g} [{change.low:+.4g}, {change.high:+.4g}]"
    if change.low == change.high:
        return f"{change.value:+.1%}"
    return f"{change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"


def _result(one: Result) -> str:
    return in_words(one.line.change, one.line.figure) if one.line.change else one.line.note
