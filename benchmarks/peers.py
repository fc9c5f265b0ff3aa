"""Beside what a user would pick instead: every peer under benchmarks/rivals, and `optimize run`, on models of the zoo.

    python benchmarks/peers.py --zoo DIR [--quick] [--json FILE] [--olive-python PYTHON] [MODEL ...]

DIR holds common.py and a folder a model. Each peer gets its best: the variants of its documentation, calibrated on the
same samples as ours; of these the ones that lose no more than is allowed on validate; and of their threads and hints
the fastest by a short measurement. `wall_s` is what all that took, from reading model and data on: `shared_s` of it was
done once for several peers (the original's answers, the exported file) and counts for each. `optimize run` gets the
recipe without its steps, and once more with `--quick`. What comes of all is judged on the test split and timed in one
interleaved measurement. `ratio_to_best_peer` is the time of the fastest peer that loses no more than is allowed, as
estimated on test, over a contender's own. The fastest of many is partly the luckiest: so the original, that peer and
what a device takes of ours are timed once more by themselves, and their figures are of that (`ratio_among_all`: of the
first). Beside that peer stand its other ways that answer alike, with other threads say, which its own short measurement
may have taken for slower: the fastest counts. `--quick`: one model, few rounds, few peers in their first variant, and
ours with the recipe's own steps.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent.absolute()
MODELS = (
    "kws", "resnet20", "resnet56_int8", "mobilenet_v1_025", "squeezenet", "minilm", "dncnn", "espnetv2", "fastestdet",
)  # fmt: skip
QUICK_MODELS, QUICK_PEERS = ("kws",), ("onnxruntime_static", "openvino_float", "torch_eager")
QUICK_ROUNDS = 2
QUICK_RUN = ("measure.budget=1", "targets={onnxruntime={}}")  # in minutes where the plan of "auto" takes half an hour
SAMPLES = 300  # of calibrate, where the recipe's own steps name no other number
COLUMNS = (
    "model", "contender", "settings", "accuracy", "drop", "holds", "p50_ms", "ratio_to_best_peer", "low", "high",
    "verdict", "wall_s", "peak_memory_bytes",
)  # fmt: skip


def main() -> int:
    from rivals import OURS, SILENT

    from runtime import host, listing
    from runtime.errors import Error

    known = listing.names("rivals")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--zoo", required=True, type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--peer",
        action="append",
        choices=[*known, OURS],
        metavar="NAME",
        help=f"this one, and more named so, of {', '.join([*known, OURS])}; all by default",
    )
    parser.add_argument("--olive-python", default="", help="of an environment with olive-ai, requests and onnxruntime")
    parser.add_argument(
        "--rounds", type=int, help="exactly so many of the last; else from 8 on until it is precise, or 60 s each"
    )
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds for preparing a variant, and for our run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="in the recipe of our run")
    parser.add_argument("--out", type=Path, help="keep models, bundles and logs here")
    options = parser.parse_args()
    if unknown := set(options.models) - set(MODELS):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; known: {', '.join(MODELS)}")
    os.environ.update({**SILENT, "ZOO": str(options.zoo.absolute())})
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.models or (QUICK_MODELS if options.quick else MODELS):
            work = (options.out or Path(temporary)).absolute() / name
            work.mkdir(parents=True, exist_ok=True)
            try:
                found = compared(
                    name, work, options.peer or [*(QUICK_PEERS if options.quick else known), OURS], options
                )
            except Error as error:  # the other models are not lost with it
                found = [{**dict.fromkeys(COLUMNS), "model": name, "reason": str(error)}]
            show(found)
            rows += found
            if options.json:  # after each: hours are not lost with the last
                figures = {"machine": host.facts().to_json(), "rows": rows, **over_all(rows)}
                options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print("  ".join(f"{key} {value}" for key, value in over_all(rows).items()))
    return 0


def compared(name: str, work: Path, peers: Sequence[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for the original, for each peer, and for each engine of our bundle."""
    from rivals import OURS
    from rivals._entry import Entry, entered, field_of, ours

    from optimize import metrics, recipe
    from optimize.folder import chatter_to
    from optimize.progress import Progress
    from optimize.steps.quantize_static import Step as QuantizeStatic
    from runtime.measure import measure

    os.environ["OPTIMIZE_CACHE"] = str(work / "cache")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(work / "inductor")
    file, changes = HERE / "zoo" / f"{name}.toml", []
    if name == "squeezenet":
        changes.append(f"model.path={os.environ['ZOO']}/squeezenet_fp16_onnx/SqueezeNet_fp16.onnx")
    own = recipe.load(file, changes)
    samples = next((step.samples for step in own.all_steps() if isinstance(step, QuantizeStatic)), SAMPLES)
    if metrics.get(own.metric() or "accuracy").unit == "share":
        changes.append("constraints.max_drop=1pp")
    asked = recipe.load(file, changes)
    # what decodes the outputs is part of what is asked for, and no plan has it by itself
    if not options.quick and not any(step.last for step in own.all_steps()):
        changes.append('steps="auto"')
    changes += [*(QUICK_RUN if options.quick else ()), *options.set]
    log = work / "log.txt"
    with chatter_to(log) as screen:
        progress = Progress(1, screen)
        progress.stage(name)
        field = field_of(asked, work, samples, options.olive_python, options.limit, progress)
        original = field.subject.contender
        entries = [Entry(original.name, original, field.clocked(original), "as it is")]
        entries += [entered(field, peer, options.quick) for peer in peers if peer != OURS]
        if OURS in peers:
            entries += ours(field, file, changes)
        if OURS in peers and not options.quick:
            entries += ours(field, file, [*changes, "search.quick=true"], f"{OURS} --quick")
        progress.say("accuracy on test")
        judged = [one.judged for one in entries[1:] if one.judged]
        accuracies, lost = field.accuracies(judged, field.subject.splits.test)
        contenders = [one.timed for one in entries if one.timed and one.name in accuracies]
        progress.say("latency")
        rounds = QUICK_ROUNDS if options.quick else None
        timed = measure(
            contenders, field.subject.feeds, rounds=rounds,
            budget_s=20.0 * len(contenders), log=log, progress=progress.count,
        )  # fmt: skip
        held = {one for one, seen in accuracies.items() if one == original.name or seen.drop <= field.max_drop}
        rivals = [one for one in timed.traces if one in held and not one.startswith(OURS)]
        best = max(rivals, key=lambda one: timed.ratio(one).value)
        last = {original.name, best, OURS, f"{OURS} --quick"}
        peer = next(entry for entry in entries if entry.name == best)
        finalists = [one for one in contenders if one.name in last & set(timed.traces)] + [*peer.others.values()]
        progress.say("latency of the best")
        final = measure(
            finalists, field.subject.feeds, rounds=options.rounds or rounds, seed=1,
            budget_s=60.0 * len(finalists), log=log, progress=progress.count,
        )  # fmt: skip
        progress.close()
    common = {"model": name, "best_peer": best, "max_drop": field.max_drop}
    ways = {peer.settings: best, **{settings: one.name for settings, one in peer.others.items()}}
    ways = {settings: one for settings, one in ways.items() if one in final.traces}
    fastest = max(ways, key=lambda one: final.ratio(ways[one]).value, default=peer.settings)
    rows = []
    for entry in entries:
        row = dict.fromkeys(COLUMNS) | common | {"contender": entry.name, "settings": entry.settings}
        row |= {"ours": entry.name.startswith(OURS), "tried": dict(entry.tried)}
        row |= {"wall_s": entry.wall_s, "shared_s": entry.shared_s, "preparing_peak_memory_bytes": entry.memory}
        row["reason"] = entry.reason or lost.get(entry.name)
        row["reason"] = row["reason"] or timed.failed.get(entry.name) or final.failed.get(entry.name)
        if entry.name in accuracies:
            seen = accuracies[entry.name]
            row |= {"accuracy": seen.value, "drop": seen.drop, "drop_low": seen.low, "drop_high": seen.high}
            row |= {"drop_verdict": seen.verdict, "holds": entry.name in held}
        if entry.name in timed.traces and not row["reason"]:
            if entry.name == best and ways:
                row |= {"settings": fastest, **figures_of(final, ways[fastest], ways[fastest])}
            elif entry.name in final.traces and ways:
                row |= figures_of(final, entry.name, ways[fastest])
            else:
                row |= figures_of(timed, entry.name, best)
            row["ratio_among_all"] = timed.ratio(entry.name, best).value if entry.name != best else 1.0
        rows.append(row)
    return rows


def figures_of(timed: Any, name: str, best: str) -> dict[str, Any]:
    """The columns that come of the measurement."""
    from runtime.intervals import verdict
    from runtime.measure import MIN_ROUNDS

    trace = timed.traces[name]
    found = {"p50_ms": float(np.median(trace.samples)) / 1e6, "peak_memory_bytes": trace.peak_memory_bytes}
    found |= {"threads": trace.threads, "rounds": timed.rounds, "floor": timed.floor}
    if name == best:
        return found | {"ratio_to_best_peer": 1.0, "low": 1.0, "high": 1.0, "verdict": "best peer"}
    ratio = timed.ratio(name, best)
    said = verdict(ratio, timed.margin) if timed.rounds >= MIN_ROUNDS else "few rounds"  # whose floor is no floor
    return found | {"ratio_to_best_peer": ratio.value, "low": ratio.low, "high": ratio.high, "verdict": said}


def over_all(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The geometric mean of our ratios: of the engine that a device takes by itself, where it holds the limit.

    `not_held`: models that are not in it, since ours lost more, failed, or was not timed.
    """
    first = {row["model"]: row for row in reversed(rows) if row.get("ours")}
    held = [row["ratio_to_best_peer"] for row in first.values() if row["holds"] and row["ratio_to_best_peer"]]
    geomean = math.exp(float(np.mean(np.log(held)))) if held else None
    lost = {row["model"] for row in rows} - {one for one, row in first.items() if row["holds"] and row["p50_ms"]}
    return {"geomean": geomean, "models": len(held), "not_held": sorted(lost)}


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    table = [list(COLUMNS), *([cell(row[column]) for column in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    for row in rows:
        if row.get("reason"):
            print(f"{row.get('contender')}: {row['reason']}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
