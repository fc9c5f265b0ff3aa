"""Is the interval of a latency ratio true? Known differences, measured again and again by the public bench path.

    python benchmarks/measure_truth.py [--quick] [--json FILE] [--work FILE]

Two models (convolutions, matrix products), each on ONNX Runtime and on OpenVINO, each comparison with `--budget 10s`:

    A against A      200 on a quiet machine, 100 beside a busy process: how often does the 95 % interval exclude 1?
    5 % more layers   60 and 60: how often is it found, of those whose interval reached +-2 %?
    20 % more layers  60 and 60: how often is it found?

Two to three hours in all. It appends each comparison to the work file, and goes on from there when run again.
`--quick` does one of each on a quiet machine, which shows that it works, and no more.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

BUDGET_S = 10.0
LAYERS = 20  # 5 % more is one more
COUNTS = {("same", "quiet"): 200, ("same", "loaded"): 100} | {
    (more, load): 60 for more in ("more_5", "more_20") for load in ("quiet", "loaded")
}
MORE = {"same": 0, "more_5": 1, "more_20": 4}
MODELS = ("convolutions", "products")
ENGINES = ("onnxruntime", "openvino")
NARROW = 0.02


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", type=Path, default=Path("measure_truth.jsonl"))
    options = parser.parse_args()
    counts = {(more, "quiet"): 1 for more in MORE} if options.quick else COUNTS
    work = Path(tempfile.mkdtemp()) / "work.jsonl" if options.quick else options.work
    done = read(work)
    todo = [
        (more, load, number)
        for (more, load), count in counts.items()
        for number in range(count)
        if (more, load, number) not in done
    ]
    # the quiet ones first, every kind at the same pace: what there is after any time speaks of all
    todo.sort(key=lambda one: (one[1] == "loaded", (one[2] + 1) / counts[one[:2]]))
    with tempfile.TemporaryDirectory() as folder:
        for position, (more, load, number) in enumerate(todo):
            print(f"{position + 1} of {len(todo)}: {more}, {load}, {number}", file=sys.stderr, flush=True)
            model, engine = MODELS[number % 2], ENGINES[number // 2 % 2]
            with beside(load):
                found = compare(Path(folder), model, engine, MORE[more])
            entry = {"more": more, "load": load, "number": number, "model": model, "engine": engine, **found}
            with work.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
            done[more, load, number] = entry
    kept = {key: entry for key, entry in done.items() if key[:2] in counts and key[2] < counts[key[:2]]}
    figures = {load: summary([e for e in kept.values() if e["load"] == load]) for load in ("quiet", "loaded")}
    show(figures)
    if options.json:
        from runtime.host import facts

        whole = {"machine": facts().to_json(), **figures, "comparisons": list(kept.values())}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    return 0


def read(work: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """What an earlier run measured; a line cut short by a kill is dropped."""
    found = {}
    for line in work.read_text(encoding="utf-8").splitlines() if work.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        found[entry["more"], entry["load"], entry["number"]] = entry
    return found


def compare(folder: Path, model: str, engine: str, more: int) -> dict[str, Any]:
    """One comparison as `optimize bench` makes it: A against itself, or A against B with more layers."""
    from optimize.bench import bench_all

    places = [str(bundle(folder, model, engine, LAYERS + n)) for n in ((0, more) if more else (0,))]
    found = bench_all(places, None, None, (), 1, BUDGET_S, False)
    seen = found["models"][places[1]] if more else found["base_against_itself"]
    verdict = seen.get("verdict", "")
    return {key: seen[key] for key in ("ratio", "low", "high")} | {"rounds": found["rounds"], "verdict": verdict}


def bundle(folder: Path, model: str, engine: str, layers: int) -> Path:
    """A bundle with this network for this engine."""
    from optimize.models import read_onnx
    from runtime import engines, writer
    from runtime.bundle import EngineEntry, Fallback

    path = folder / f"{model}-{engine}-{layers}"
    if not path.exists():
        file = network(folder / f"{model}-{layers}.onnx", model, layers)
        out = folder / f"{path.name}-engine"
        out.mkdir()
        files = {role: str(made) for role, made in engines.get(engine).compile(file, out, {}).items()}
        entry = EngineEntry(engine, engine, engine, files, str(file))
        fallback = Fallback({"model": str(file)}, {"onnxruntime": {}})
        specs = read_onnx(file).specs
        writer.write(path, name=path.name, specs=specs, engines=[entry], fallback=fallback, axes={}, made_with={})
    return path


def network(path: Path, model: str, layers: int) -> Path:
    """Equal layers one after another, with random weights that keep the values' size."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    shape, size = ((1, 32, 28, 28), (32, 32, 3, 3)) if model == "convolutions" else ((8, 512), (512, 512))
    scale = np.sqrt(2 / np.prod(size[1:]))
    nodes, weights, name = [], [], "x"
    for i in range(layers):
        weights.append(numpy_helper.from_array((random.standard_normal(size) * scale).astype(np.float32), f"w{i}"))
        pads: dict[str, Any] = {"pads": [1, 1, 1, 1]} if model == "convolutions" else {}
        op = "Conv" if model == "convolutions" else "MatMul"
        last = "y" if i == layers - 1 else f"r{i}"
        nodes += [helper.make_node(op, [name, f"w{i}"], [f"a{i}"], **pads), helper.make_node("Relu", [f"a{i}"], [last])]
        name = last
    ends = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y"))
    graph = helper.make_graph(nodes, model, [next(ends)], [next(ends)], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(made)
    onnx.save(made, path)
    return path


@contextmanager
def beside(load: str) -> Iterator[None]:
    """With a process that keeps a core busy, or with none."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if load == "loaded" else None
    try:
        yield
    finally:
        if busy:
            busy.kill()
            busy.wait()


def summary(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one load; null where nothing was measured."""

    def of(more: str) -> list[dict[str, Any]]:
        return [entry for entry in entries if entry["more"] == more]

    same, five, twenty = of("same"), of("more_5"), of("more_20")
    narrow = [e for e in five if (e["high"] / e["low"]) ** 0.5 - 1 <= NARROW]
    return {
        "aa": len(same),
        "aa_excludes_one": sum(not e["low"] <= 1 <= e["high"] for e in same),
        "n_5": len(five),
        "narrow_5": len(narrow),
        "power_5": sum(e["high"] < 1 for e in narrow) / len(narrow) if narrow else None,
        "n_20": len(twenty),
        "power_20": sum(e["high"] < 1 for e in twenty) / len(twenty) if twenty else None,
        "wrong_way": sum(e["low"] > 1 for e in five + twenty),
    }


def show(figures: dict[str, dict[str, Any]]) -> None:
    names = list(figures["quiet"])
    print(f"{'':<10}" + "".join(f"{name:>17}" for name in names))
    for load, found in figures.items():
        cells = ("-" if value is None else f"{value:.3g}" for value in found.values())
        print(f"{load:<10}" + "".join(f"{cell:>17}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
