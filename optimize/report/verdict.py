"""The whole report in one sentence, and whether it is good news."""

from typing import Literal

from optimize.report import Final, Report, Row, words

Tone = Literal["good", "caution", "bad"]

LABELS: dict[Tone, str] = {"good": "constraints met", "caution": "read with care", "bad": "constraint not met"}


def tone(report: Report) -> Tone:
    """Bad: a constraint is not met; caution: something on which the choice stands cannot be told, or is not faster."""
    if report.exit_code or report.closest or not report.chosen:
        return "bad"
    rows = [report.row(name) for name in report.chosen.values()]
    seen = [part for row in rows for part in (row.validate_, row.accuracy)]
    finals = report.headline.targets.values() if report.headline else ()
    unsure = any(part is None or part.verdict != "within" for part in seen)
    slow = report.objective == "latency" and not any(final.latency.verdict == "faster" for final in finals)
    return "caution" if unsure or slow else "good"


def sentence(report: Report) -> str:
    """The verdict: of the chosen engine with the lowest p50, and of what is not met."""
    if not report.chosen:
        return f"Nothing was chosen: {_nothing(report)}."
    finals = list(report.headline.targets.values()) if report.headline else []
    if not finals:
        name = next(iter(report.chosen.values()))
        return f"{name} was chosen, but its latency was not measured here; {_accuracy(report, report.row(name))}."
    lead = min(finals, key=lambda final: final.latency.p50_ms)
    row = report.row(lead.name)
    who = lead.name if len(finals) == 1 else f"Of {len(finals)} chosen engines {lead.name}, with the lowest p50,"
    speed, cost = _speed(lead), _accuracy(report, row)
    link = ", and" if row.accuracy and row.accuracy.verdict == "within" and lead.latency.verdict == "faster" else ";"
    unmet = [target for target in report.closest if target != row.target]
    rest = f"; on {', '.join(unmet)} no candidate holds the limit" if unmet else ""
    if row.target in report.closest and report.closest[row.target] == row.name:
        rest = f"; it does not meet all limits{rest}"
    elif row.target in report.closest:
        rest = f"; it enters because no candidate for {row.target} holds the limit on validate{rest}"
    return f"{who} {speed}{link} {cost}{rest}."


def _nothing(report: Report) -> str:
    return "; ".join(f"{target}: {why}" for target, why in report.why.items()) or "there was no target"


def _speed(final: Final) -> str:
    part = final.latency
    if part.ratio is None or part.low is None or part.high is None:
        return f"takes {part.p50_ms:.3g} ms a call"
    times = f"{part.ratio:.2f} times [{part.low:.2f}, {part.high:.2f}]"
    if part.verdict == "faster":
        return f"runs {times} as fast as the original"
    if part.verdict == "no difference":
        return f"is as fast as the original, as far as can be told: {times}"
    doubt = "is slower than" if part.verdict == "slower" else "may or may not be faster than"
    return f"{doubt} the original: {times} as fast"


def _accuracy(report: Report, row: Row) -> str:
    seen, limit, metric = row.accuracy, words.drop_limit(report), report.data.judged_by
    if seen is None:
        return f"its {metric} on test was not measured"
    if seen.verdict == "within":
        return f"its {metric} stays within the {limit} that it may lose"
    if seen.verdict == "exceeds":
        return f"its {metric} loses {words.figure(report, seen.drop)} on test, more than the {limit} allowed"
    return f"whether its {metric} stays within {limit} cannot be told from {seen.samples:,} test samples"
