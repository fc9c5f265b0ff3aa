"""report.html: one file to read, to send and to print; it loads nothing, and works without a network.

page.html is its template, page.css and page.js go into it whole.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimize.report import (
    Final,
    RatioPart,
    Report,
    Row,
    devices,
    differences,
    plots,
    reasons,
    tables,
    toml,
    verdict,
    words,
)

_HERE = Path(__file__).parent
MACHINE = {
    "cpu": "processor", "cores": "cores allowed", "memory_bytes": "memory", "gpus": "GPU",
    "instruction_sets": "instruction sets", "governor": "frequency governor", "system": "system",
    "architecture": "architecture", "python": "Python",
}  # fmt: skip
STOPPED = {
    "precision": "until precise enough", "budget": "ended by its budget", "rounds": "as many as a first look has",
}  # fmt: skip
_SHOUT = re.compile(r"^([A-Z]{4,}(?: [A-Z]{2,})*|[A-Z]{2,}(?: [A-Z]{2,})+)\b")
_BAD = ("NOT MET", "EXCEEDS", "FAILED", "WRONG", "SLOWER")


@dataclass(frozen=True)
class Fact:
    """A figure of a card: what, how much, its interval or what it is compared with, and its verdict."""

    what: str
    value: str
    beside: str = ""
    verdict: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Card:
    """One target: what was chosen for it, its figures of the last run, and why it was chosen."""

    target: str
    name: str
    facts: tuple[Fact, ...]
    lead: Fact
    why: str


def write(report: Report, folder: Path) -> Path:
    """Write report.html into a folder."""
    path = folder / "report.html"
    path.write_text(text(report), encoding="utf-8")
    return path


def text(report: Report) -> str:
    """The page."""
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    script = _read("page.js")
    tone = verdict.tone(report)
    return page.from_string(_read("page.html")).render(
        title=f"{_model(report)}: what was optimized",
        model=_model(report),
        made_at=report.made_at.replace("T", " ").replace("+00:00", " UTC"),
        css=_read("page.css"),
        script=script,
        # only the script with this sum runs, so that nothing in a name can
        script_sum=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        tone=tone,
        tone_label=verdict.LABELS[tone],
        sentence=verdict.sentence(report),
        warnings=[_warning(line) for line in words.first_lines(report)],
        cards=[_card(report, target) for target in report.why],
        where=_where(report),
        how=words.measured_how(report),
        once=words.looked_once(report),
        limit=words.drop_limit(report),
        metric=report.data.judged_by,
        pareto=words.pareto(report),
        plots=plots.draw(report),
        candidates=tables.candidates(report),
        latencies=tables.latencies(report),
        answers=differences.answers(report),
        classes=differences.classes(report),
        flips=differences.flips(report),
        moved=differences.moved(report),
        reasons=[_reason(row) for row in report.candidates if row.explained],
        noises=[(row.name, words.noisiest(row), reasons.noise(row)) for row in report.candidates if row.noise],
        minded=[(row.name, reasons.sensitivity(report, row)) for row in report.candidates if row.sensitivity],
        repairs=[(row.name, words.repaired(row), reasons.repair(row)) for row in report.candidates if row.repair],
        devices=devices.timings(report),
        machines=[words.device(one) for one in report.devices],
        made=tables.made(report),
        ran=tables.ran(report),
        machine=_machine(report.machine),
        data=_data(report),
        measuring=_measuring(report),
        versions=report.made_with,
        recipe=toml.text(report.recipe),
        load="\n".join(words.load_lines(report.bundle, bool(report.states))) if report.bundle else "",
        notes=words.notes(report),
        seconds=f"{report.seconds:.0f}",
        exit_code=report.exit_code,
    )


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _model(report: Report) -> str:
    model = report.recipe.get("model", {})
    place = str(model.get("path") or model.get("entry") or "model")
    return re.split(r"[/\\]", place)[-1]


def _where(report: Report) -> str:
    """The machine, as it stands beside figures."""
    return f"{words.place(report)}, batch {report.batch}"


def _warning(line: str) -> tuple[str, str, str]:
    """The word that says what is the matter, the sentence, and how grave it is."""
    found = _SHOUT.match(line)
    if not found:
        return "NOTE", line, ""
    return found[1], line[found.end() :].lstrip(": "), "bad" if found[1] in _BAD else ""


def _card(report: Report, target: str) -> Card:
    name = report.chosen.get(target)
    if name is None:
        lead = Fact("speed", "–", "nothing was chosen", "not met", "bad")
        return Card(target, "nothing chosen", (), lead, report.why[target])
    row, first = report.row(name), report.original
    final = report.headline.targets.get(target) if report.headline else None
    facts = []
    if final and report.headline:
        p50 = report.headline.original.p50_ms
        facts.append(Fact("p50", f"{final.latency.p50_ms:.3g} ms", f"original {p50:.3g} ms"))
        facts += _against(final)
    seen = row.accuracy
    if seen is None:
        facts.append(Fact(report.data.judged_by, "–", "not judged on test"))
    else:
        before = f"original {tables.value(report, first.accuracy.value)}" if first.accuracy else ""
        facts.append(Fact(report.data.judged_by, tables.value(report, seen.value), before))
        facts.append(Fact("drop", *tables.drop(report, seen), *_told(seen.verdict)))
    if row.size_bytes is not None:
        facts.append(Fact("size", f"{row.size_bytes / 2**20:.2f} MiB"))
    if row.precision:
        facts.append(Fact("precision", row.precision))
    return Card(target, name, tuple(facts), _lead(report, final, row), report.why[target])


def _lead(report: Report, final: Final | None, row: Any) -> Fact:
    part = final.latency if final else None
    if part is None or part.ratio is None:
        reason = f"{row.status}: {row.reason}" if row.reason else row.status
        return Fact("the original's speed", "–", f"latency not measured; {reason}")
    return Fact(
        "the original's speed", f"{part.ratio:.2f} ×", f"[{part.low:.2f}, {part.high:.2f}]",
        *_told(part.verdict),
    )  # fmt: skip


def _against(final: Final) -> list[Fact]:
    pairs: Sequence[tuple[str, RatioPart | None]] = (
        ("vs plain fp32", final.ratio_to_plain), ("vs its default", final.ratio_to_default),
    )  # fmt: skip
    return [
        Fact(what, f"{part.ratio:.2f} ×", f"[{part.low:.2f}, {part.high:.2f}]", *_told(part.verdict))
        for what, part in pairs
        if part
    ]


def _told(word: str | None) -> tuple[str, str]:
    return (word or "", tables.tone(word or ""))


def _reason(row: Row) -> tuple[str, list[str], Any]:
    """Of an engine its name, the sentences that say why it is as fast as it is, and the table of its layers."""
    seen = row.explained
    assert seen is not None
    return row.name, words.reasons(seen), reasons.layers(row) if seen.layers else None


def _machine(machine: Mapping[str, Any]) -> dict[str, str]:
    """What is known of the machine; first, and in this order, what has a title here."""
    found = {}
    for key in (*(key for key in MACHINE if key in machine), *(key for key in machine if key not in MACHINE)):
        value = machine[key]
        if key == "memory_bytes":
            shown = f"{value / 2**30:.1f} GiB"
        elif isinstance(value, (list, tuple)):
            shown = ", ".join(map(str, value)) or "none"
        else:
            shown = "not known" if value is None else str(value)
        found[MACHINE.get(key, key.replace("_", " "))] = shown
    return found


def _data(report: Report) -> dict[str, str]:
    data = report.data
    labels = "yes" if data.labels else f"none: judged by {data.judged_by}, against the original"
    found = {"data": data.place, "labels": labels}
    better = "higher" if data.higher_is_better else "lower"
    found["metric"] = f"{data.judged_by}{f' ({data.unit})' if data.unit else ''}, {better} is better"
    for name, split in data.splits.items():
        found[name] = f"{split.samples:,} samples, sha256 {split.sha256[:12]}…"
    found["inputs"], found["outputs"] = "; ".join(report.inputs), "; ".join(report.outputs)
    return found


def _measuring(report: Report) -> dict[str, str]:
    found = {"objective": report.objective, "allowed drop": words.drop_limit(report), "batch": str(report.batch)}
    for name, timing in (("first look", report.screening), ("last run", report.headline and report.headline.timing)):
        if timing:
            floor = f"original against itself ±{timing.floor:.1%}, " if timing.floor is not None else ""
            found[name] = (
                f"{timing.rounds} rounds of fresh processes, {STOPPED[timing.stopped]}; {floor}"
                f"told apart beyond ±{timing.margin:.1%}; quiet told by {timing.quiet}"
            )
    return found
