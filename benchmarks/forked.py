"""Does a process that was forked compute as fast, and vary as much, as one that was started anew?

    python benchmarks/forked.py [--quick] [--json FILE]

Two models (convolutions, matrix products), each on ONNX Runtime and on OpenVINO, in rounds of two processes, one of
each kind. The ratio is the time of what was started anew over that of what was forked; `spread` is the standard
deviation of the logarithm of a process's median: what the intervals are made of. A second row has the same file, and
tells what that spread is by chance: both kinds are then started anew.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measure_truth import ENGINES, LAYERS, MODELS, bundle

from runtime import engines
from runtime.bundle import read
from runtime.contender import Contender, Worker
from runtime.host import facts
from runtime.measure import measure
from runtime.worker import open_bundle

ROUNDS, QUICK = 40, 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            for engine in ENGINES:
                place = bundle(Path(folder), model, engine, LAYERS)
                for kind in ("forked", "anew"):
                    found = compare(place, engine, kind, QUICK if options.quick else ROUNDS)
                    rows.append({"model": model, "engine": engine, "kind": kind, **found})
                    show(rows[-1], first=len(rows) == 1)
    if options.json:
        whole = {"machine": facts().to_json(), "rows": rows}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 0


def compare(place: Path, engine: str, kind: str, rounds: int) -> dict[str, Any]:
    """Both in the same rounds; the first round, in which all are started anew, is left out."""
    anew = Contender("anew", f"{open_bundle.__module__}:{open_bundle.__name__}", {"path": str(place), "engine": engine})
    modules = engines.get(engine).FORKABLE if kind == "forked" else ()
    random, specs = np.random.default_rng(0), read(place).specs.inputs
    feeds = {spec.name: random.standard_normal(spec.sized({})).astype(spec.dtype) for spec in specs}
    starts: dict[str, list[float]] = {"anew": [], "other": []}

    def start(contender: Contender, feeds: Any, log: Path | None) -> Worker:
        worker = Worker.start(contender, feeds, log)
        starts[contender.name].append(worker.cold_start_ms)
        return worker

    other = replace(anew, name="other", modules=modules)
    seen = measure([anew, other], feeds, rounds=rounds + 1, twin=False, start=start)
    traces = {name: replace(trace, rounds=trace.rounds[1:]) for name, trace in seen.traces.items()}
    ratio = replace(seen, traces=traces).ratio("other")
    medians = {name: np.log([np.median(calls) for calls in trace.rounds]) for name, trace in traces.items()}
    return {
        "rounds": rounds,
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        **{f"spread_{name}": float(values.std(ddof=1)) for name, values in medians.items()},
        **{f"start_{name}_ms": float(np.median(times[1:])) for name, times in starts.items()},
    }


def show(row: dict[str, Any], first: bool) -> None:
    if first:
        print(f"{'':<32}{'ratio':>8}{'low':>8}{'high':>8}{'spread, %':>18}{'start, ms':>18}")
    name = f"{row['model']} {row['engine']} {row['kind']}"
    spread = f"{row['spread_anew']:.2%} {row['spread_other']:.2%}"
    start = f"{row['start_anew_ms']:.0f} {row['start_other_ms']:.0f}"
    print(f"{name:<32}{row['ratio']:>8.4f}{row['low']:>8.4f}{row['high']:>8.4f}{spread:>18}{start:>18}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
