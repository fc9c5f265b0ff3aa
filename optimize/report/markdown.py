"""report.md: the report for a pull request or a wiki."""

from pathlib import Path

from optimize.report import Report, words

_DEVICE = ("engine", "p50 ms", "ratio to the plain model there", "verdict")
_ANSWERS = (
    "candidate", "called alike", "flipped", "became wrong", "became right", "calibration error", "outputs' SQNR dB",
)  # fmt: skip
_MADE = ("candidate", "step", "seconds", "parameters", "MACs", "MiB", "signal to noise dB")


def write(report: Report, folder: Path) -> Path:
    """Write report.md into a folder."""
    path = folder / "report.md"
    path.write_text(text(report), encoding="utf-8")
    return path


def text(report: Report) -> str:
    """The report in Markdown."""
    parts = ["# What was optimized, and what came of it", ""]
    parts += [f"- **{line}**" for line in words.first_lines(report)]
    parts += ["", "## Chosen", ""]
    parts += [f"- {line}" for line in words.headline(report)]
    parts += [f"- {line}" for line in words.pareto(report)]
    header, *rows = words.table(report)
    parts += ["", "## Candidates", "", _row(header), _row(["---"] * len(header)), *map(_row, rows)]
    parts += [
        "",
        f"{words.measured_how(report)} A ratio is the original's time over the candidate's: above 1 is faster. "
        f"A drop is the original's {report.data.judged_by} minus the candidate's on *test*, its interval paired on "
        f"the same samples; allowed: {words.drop_limit(report)}. Ratios in the table are from the first look "
        "at all candidates, in a search those of the best from a closer one, those under Chosen from the last run. "
        "* chosen.",
        "",
        "## What ran",
        "",
        "| candidate | engine | precision | threads | cold start ms | peak memory MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in (report.original, *report.candidates):
        cells = (
            row.name, row.engine, row.precision, str(row.threads or ""),
            "" if row.cold_start_ms is None else f"{row.cold_start_ms:.0f}",
            "" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**20:.0f}",
        )  # fmt: skip
        parts.append(_row(cells))
    told = [(row, row.detail) for row in report.candidates if row.detail]
    if told:
        parts += ["", "## How the answers differ", "", _row(_ANSWERS), _row(["---"] * len(_ANSWERS))]
    for row, seen in told:
        figures = (
            _figure(seen.agreement, ".2%"), _figure(seen.flipped, "d"), _figure(seen.lost, "d"), _figure(seen.won, "d"),
            _figure(seen.calibration_error, ".2%"), _figure(seen.sqnr_db, ".1f"),
        )  # fmt: skip
        parts.append(_row((row.name, *figures)))
    why = [(row, words.reasons(row.explained)) for row in report.candidates if row.explained]
    if why:
        parts += ["", "## Why it is (not) faster", ""]
    parts += [f"- {row.name}: {' '.join(sentences)}" for row, sentences in why]
    noisy = [f"- {row.name}: {words.noisiest(row)}" for row in report.candidates if row.noise]
    parts += ["", "## Where the signal was lost", "", *noisy] if noisy else []
    back = [f"- {row.name}: {words.repaired(row)}" for row in report.candidates if row.repair]
    parts += ["", "## Layers returned to float", "", *back] if back else []
    for one in report.devices:
        parts += ["", f"## On {one.device}", "", words.device(one), "", _row(_DEVICE), _row(["---"] * len(_DEVICE))]
        for name, timed in one.engines.items():
            ratio = "{:.2f} [{:.2f}, {:.2f}]".format(*timed.ratio) if timed.verdict != "the base" else ""
            parts.append(_row((name, f"{timed.p50_ms:.3f}", ratio, timed.verdict)))
        parts += [f"- {name}: {reason}" for name, reason in one.failed.items()]
    parts += ["", "## What each step did", "", _row(_MADE), _row(["---"] * len(_MADE))]
    for row in (report.original, *report.candidates):
        parts += [_row(words.made_cells(row, made)) for made in row.made]
    notes = words.notes(report)
    parts += ["", "## Notes", "", *(f"- {note}" for note in notes)] if notes else []
    versions = ", ".join(f"{name} {version}" for name, version in report.made_with.items())
    parts += ["", f"Made {report.made_at} in {report.seconds:.0f} s with {versions}.", ""]
    return "\n".join(parts)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
