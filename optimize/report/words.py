"""The report in words and table cells, shared by every form that a person reads."""

from collections.abc import Sequence

from optimize.report import Accuracy, Device, Explained, Latency, Made, RatioPart, Report, Row

HEADER = ("candidate", "status", "{metric}", "drop [90 % interval]", "", "p50 ms", "ratio [95 % interval]", "", "MiB")


def first_lines(report: Report) -> list[str]:
    """What must be known before any figure: what is not met, not told, not built, not faster, not quiet."""
    lines = [f"NOT REPRODUCED: {one}." for one in report.unlike]
    lines += [f"ENDED EARLY: {report.early}."] if report.early else []
    for target, name in report.closest.items():
        if report.chosen.get(target) == name:  # a limit of time, size or memory
            lines.append(f"NOT MET on {target}: {report.why[target]}.")
        else:
            lines.append(f"NOT MET on {target}: no candidate holds {drop_limit(report)}; the closest is {name}.")
    for name in report.chosen.values():
        row = report.row(name)
        for label, seen in (("test", row.accuracy), ("validate", row.validate_)):
            if seen and seen.verdict == "exceeds":
                lines.append(
                    f"EXCEEDS on {label}: {name} loses {figure(report, seen.drop)}, more than {drop_limit(report)}."
                )
            if seen and seen.verdict == "cannot tell":
                more = f"; {seen.samples_that_tell:,} samples would tell" if seen.samples_that_tell else ""
                lines.append(
                    f"CANNOT TELL on {label} whether {name} stays within {drop_limit(report)}: "
                    f"drop {interval(report, seen)} from {seen.samples:,} samples{more}."
                )
    for row in report.candidates:
        if row.status in ("failed", "wrong"):
            lines.append(f"{row.status.upper()}: {row.name}: {row.reason}")
        elif row.status == "cannot build here":
            lines.append(f"CANNOT BUILD HERE: {row.target}: {row.reason}")
        elif row.name.endswith("int8") and row.latency and row.latency.verdict == "slower":
            lines.append(f"SLOWER than the original: {row.name}, {ratio(row.latency)}.")
    if report.headline:
        for final in report.headline.targets.values():
            for part, other in (
                (final.latency, "the original"),
                (final.ratio_to_plain, "its plain fp32 engine"),
                (final.ratio_to_default, "its vendor's default"),
            ):
                if part and part.verdict == "slower":
                    lines.append(f"SLOWER than {other}: {final.name}, {ratio(part)}.")
        timing = report.headline.timing
        if timing.floor and timing.floor > 0.02:
            lines.append(
                f"NOISY: the original against itself cannot be told apart within ±{timing.floor:.1%}; "
                f"ratios nearer to 1 than that say nothing. {quieter(timing.others, report.machine.get('governor'))}"
            )
        if looked_once(report):
            lines.append(
                f"QUICK: the choice went by the {timing.rounds} rounds that it is told by, in which the best of "
                "several looks a little faster than it is; this machine's noise was not measured."
            )
        if timing.stopped == "budget":
            lines.append(
                f"The last measurement ended by its budget after {timing.rounds} rounds, "
                "before every interval was within ±2 %; --set measure.budget=60 gives it longer."
            )
        if timing.quiet != "CPU time":
            lines.append("CPU times cannot be read here: a fixed pause stood between blocks, which is less sure.")
        if timing.restless:
            lines.append(f"{timing.restless} blocks began while another contender's threads were still busy.")
    return lines


def looked_once(report: Report) -> bool:
    """Whether the first look was the last: that alone has as many rounds as were asked for."""
    return report.headline is not None and report.headline.timing.stopped == "rounds"


def quieter(others: Sequence[str], governor: str | None) -> str:
    """What to do on a noisy machine: who was busy, and how the clock is governed."""
    busy = f"Busy meanwhile: {', '.join(others[:3])}. " if others else "No other process here was busy. "
    if governor and governor != "performance":
        busy += f"The frequency governor is '{governor}': sudo cpupower frequency-set -g performance. "
    return f"{busy}{'Stop it' if others else 'Quiet the machine (a container has neighbours too)'} and run again."


def table(report: Report) -> list[list[str]]:
    """The candidates as text cells, the header first, the original next; * marks the chosen."""
    header = [cell.format(metric=report.data.judged_by) for cell in HEADER]
    rows = [_cells(report, report.original)]
    rows += [_cells(report, row) for row in report.candidates]
    return [header, *rows]


def reasons(seen: Explained) -> list[str]:
    """Why an engine is as fast as it is: the layer to blame first."""
    found = [seen.sentence]
    if seen.total_ms:
        parts = ", ".join(f"{what} {ms:.3f} ms ({ms / seen.total_ms:.0%})" for what, ms in seen.ms.items())
        found.append(f"Of {seen.total_ms:.3f} ms in its profile: {parts}.")
    if reach := reached(seen):
        found.append(reach)
    if seen.int8_instructions:
        found.append(f"Instructions for int8: {seen.int8_instructions}.")
    return found


def reached(seen: Explained) -> str:
    """What share of the machine's measured peak an engine reaches, or why that is not known; empty with no profile."""
    if seen.unreached:
        return f"What share of this machine's peak it reaches could not be told: {seen.unreached}"
    parts = []
    for what, share in seen.reached.items():
        peak = seen.peaks[what]
        parts.append(
            f"{share:.0%} of the {peak:.0f} GB/s of a copy (its weights and inputs counted once, the least to be moved)"
            if what == "copy"
            else f"{share:.0%} of the {peak:.0f} billion operations a second of a large {what} matrix product"
        )
    return f"It reaches {', and '.join(parts)}, both measured here." if parts else ""


def device(one: Device) -> str:
    """A device and how it was measured, in one sentence."""
    machine = one.machine
    return (
        f"{one.device}: {machine.get('cpu')}, {machine.get('cores')} cores; {one.rounds} rounds of fresh processes, "
        f"interleaved; told apart beyond ±{one.margin:.1%}; input: {one.input}."
    )


def noisiest(row: Row) -> str:
    """Where most of the signal was lost, in one sentence."""
    worst = row.noise[0]
    return (
        f"Most is lost at {worst.name} ({worst.op}), where signal to noise falls from {worst.before_db:.1f} to "
        f"{worst.sqnr_db:.1f} dB."
    )


def repaired(row: Row) -> str:
    """Which layers a repaired candidate has in float, of those that were tried by themselves, in one sentence."""
    back = [one.name for one in row.repair if one.returned]
    return (
        f"{len(back)} of the {len(row.repair)} layers that were tried are in float again, those first that regain most "
        f"for their time: {', '.join(back)}."
    )


def headline(report: Report) -> list[str]:
    """A sentence a target: the chosen one, measured once more."""
    lines = []
    for target, name in report.chosen.items():
        final = report.headline.targets.get(target) if report.headline else None
        if final is None:
            lines.append(f"{target}: {name}; {report.why[target]}")
            continue
        parts = [f"{ratio(final.latency)} the original's speed ({final.latency.verdict})"]
        for part, other in ((final.ratio_to_plain, "plain fp32"), (final.ratio_to_default, "the vendor's default")):
            if part:
                parts.append(f"{ratio(part)} {other} ({part.verdict})")
        lines.append(
            f"{target}: {name}, p50 {final.latency.p50_ms:.3g} ms; {', '.join(parts)}. Chosen: {report.why[target]}."
        )
    lines += [f"{target}: nothing chosen; {why}" for target, why in report.why.items() if target not in report.chosen]
    return lines


def pareto(report: Report) -> list[str]:
    """A sentence a target that has more than the chosen one to offer."""
    return [
        f"{target}: beaten by none at once in p50, drop on validate and size: {', '.join(names)}"
        for target, names in report.pareto.items()
        if len(names) > 1
    ]


def place(report: Report) -> str:
    """The machine: its processor, and its GPUs by name."""
    cores = report.machine["cores"]
    gpus = (gpu.partition(",")[0] for gpu in report.machine.get("gpus", ()))
    return ", ".join([f"{report.machine['cpu']} ({cores} core{'s' if cores != 1 else ''})", *gpus])


def measured_how(report: Report) -> str:
    """On what, and how, in one sentence."""
    splits = ", ".join(f"{facts.samples:,} {name}" for name, facts in report.data.splits.items())
    text = f"Measured on {place(report)} at batch {report.batch}; data: {splits}"
    if report.headline:
        timing = report.headline.timing
        floor = f", the original against itself ±{timing.floor:.1%}" if timing.floor is not None else ""
        text += f"; last run {timing.rounds} rounds of fresh processes, interleaved{floor}"
    if report.states:
        text += (
            f". Streamed: a sample is a recording, run step by step, each model's states its own "
            f"({', '.join(report.states)}); a latency is that of one step"
        )
    if any(judged(row)[1] for row in report.candidates):
        shown = "what it chose, what that stands beside, and what nothing beats"
        who = "a quick run judges on test what it chose" if looked_once(report) else f"a search judges on test {shown}"
        text += f". v: on validate; {who}"
    if any(row.status == "measured" and not judged(row)[0] for row in report.candidates):
        text += f". Without {report.data.judged_by}: it would not be chosen whatever that came to, and was not judged"
    return text + "."


def drop_limit(report: Report) -> str:
    """The largest drop allowed, in the metric's unit."""
    return figure(report, report.max_drop)


def figure(report: Report, value: float) -> str:
    """A drop: percentage points where the metric is a share."""
    return (
        f"{value * 100:.2f} pp"
        if report.data.unit == "share"
        else f"{value:.4g}{' ' + report.data.unit if report.data.unit else ''}"
    )


def interval(report: Report, seen: Accuracy) -> str:
    """A drop with its bounds."""
    if report.data.unit == "share":
        return f"{seen.drop * 100:+.2f} [{seen.low * 100:+.2f}, {seen.high * 100:+.2f}] pp"
    return f"{seen.drop:+.4g} [{seen.low:+.4g}, {seen.high:+.4g}]"


def ratio(part: RatioPart | Latency) -> str:
    """A ratio with its interval."""
    return f"{part.ratio:.2f} x [{part.low:.2f}, {part.high:.2f}]"


def made_cells(row: Row, made: Made) -> list[str]:
    """What one step of a candidate did, as text cells."""
    return [
        row.name,
        made.use,
        "" if made.seconds is None else f"{made.seconds:.1f}",
        "" if made.parameters is None else f"{made.parameters:,}",
        "" if made.macs is None else f"{made.macs:,}",
        "" if made.size_bytes is None else f"{made.size_bytes / 2**20:.2f}",
        "" if made.signal_to_noise_db is None else f"{made.signal_to_noise_db:.1f}",
    ]


def notes(report: Report) -> list[str]:
    """What was said on the way, each once."""
    said = (note for row in report.candidates for made in row.made for note in made.notes)
    return [*report.notes, *dict.fromkeys(said)]


def load_lines(bundle: str, streamed: bool = False) -> list[str]:
    """How to run a bundle in Python."""
    calls = ["stream = model.stream()", "y = stream(x)"] if streamed else ["y = model(x)"]
    return ["import runtime", f'model = runtime.load("{bundle}")', *calls]


def columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column."""
    return [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]


def judged(row: Row) -> tuple[Accuracy | None, str]:
    """What a row shows of the metric, and where that is not of test, the split: a search judges few on test."""
    if row.accuracy is None and row.validate_ and row.status == "measured":
        return row.validate_, "on validate"
    return row.accuracy, ""


def _cells(report: Report, row: Row) -> list[str]:
    (seen, split), time = judged(row), row.latency
    mark = " v" if split else ""
    share = report.data.unit == "share"
    return [
        f"{row.name} *" if row.name in report.chosen.values() else row.name,
        row.status,
        "" if seen is None else f"{seen.value:.2%}{mark}" if share else f"{seen.value:.5g}{mark}",
        "" if seen is None or seen.verdict is None else interval(report, seen),
        (seen.verdict or "") if seen else "",
        "" if time is None else f"{time.p50_ms:.3f}",
        "" if time is None or time.ratio is None else ratio(time),
        (time.verdict or "") if time else "",
        "" if row.size_bytes is None else f"{row.size_bytes / 2**20:.2f}",
    ]
