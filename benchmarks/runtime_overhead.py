"""What the runtime costs beside the bare engine: import, load, call, throughput.

    python benchmarks/runtime_overhead.py [--quick] [--json FILE]

On the digits model, all interleaved with what it is compared to. `import runtime` against `import numpy`, each in a
fresh process; `runtime.load` against the engine library's own load of the same file with the same options, the hashing
of the bundle's files, timed apart, taken off; a call against `InferenceSession.run` with a dictionary, or an OpenVINO
`InferRequest` with shared inputs; four submitted calls under way against OpenVINO's own asynchronous queue with as many
streams, which is what its benchmark_app does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import runtime
from runtime import engines, host, writer
from runtime.bundle import EngineEntry, Fallback, sha256

DIGITS = Path(__file__).parents[1] / "optimize" / "examples" / "digits" / "model.py"
OPTIONS: dict[str, dict[str, Any]] = {
    "onnxruntime": {"threads": 1, "spinning": True}, "openvino": {"threads": 1, "precision": "f32"},
}  # fmt: skip
IN_FLIGHT = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the repetitions")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    times = 1 if options.quick else 3
    found: dict[str, Any] = {"machine": host.facts().to_json(), **imported(10 * times), "engines": {}}
    print(", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, float)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in OPTIONS:
            bundle, files = bundled(Path(folder), name)
            row = {**loaded(name, bundle, files, 10 * times), **called(name, bundle, files, 20 * times)}
            if name == "openvino":
                row |= throughput(bundle, files, 2.0 * times)
            found["engines"][name] = row
            print(name, ", ".join(f"{key} {value:.4g}" for key, value in row.items()), sep=": ", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def imported(rounds: int) -> dict[str, float]:
    """`import runtime` over `import numpy`, and with all that it names; medians over fresh processes in turn."""
    # numpy first in both: the face is lazy, so what it names is imported too, as by `from runtime import load, Model`
    codes = {
        "numpy": "import numpy",
        "runtime": "import numpy; import runtime",
        "all": "import numpy; from runtime import Bundle, Model, TensorSpec, load",
    }
    taken: dict[str, list[float]] = {name: [] for name in codes}
    with tempfile.TemporaryDirectory() as compiled:  # as pip leaves it, whatever this environment says
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled, "PYTHONDONTWRITEBYTECODE": ""}
        for turn in range(rounds + 1):
            for name, code in codes.items():
                timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
                done = subprocess.run(
                    [sys.executable, "-c", timed], capture_output=True, text=True, check=True, env=environment
                )
                if turn:
                    taken[name].append(float(done.stdout))
    middle = {name: float(np.median(seconds)) for name, seconds in taken.items()}
    return {
        "import_ratio": middle["runtime"] / middle["numpy"],
        "import_all_ratio": middle["all"] / middle["numpy"],
        "import_numpy_ms": middle["numpy"] * 1e3,
    }


def bundled(folder: Path, name: str) -> tuple[Path, dict[str, Path]]:
    """A bundle of the digits model with one engine, and that engine's files."""
    from optimize import flags
    from optimize.models import read_onnx

    onnx = folder / "digits.onnx"
    if not onnx.exists():
        flags.export(f"{DIGITS}:build", onnx, None, None, ["image=batch,1,32,32"], 18, False)
    out = folder / name
    out.mkdir()
    made = {role: str(file) for role, file in engines.get(name).compile(onnx, out, OPTIONS[name]).items()}
    bundle = writer.write(
        folder / f"{name}-bundle", name=name, specs=read_onnx(onnx).specs, axes={}, made_with={},
        engines=[EngineEntry(name, name, name, made, str(onnx), OPTIONS[name])],
        fallback=Fallback({"model": str(onnx)}, {name: {}}),
    )  # fmt: skip
    return bundle.path, bundle.resolve(bundle.engines[0].files)


def bare(name: str, files: dict[str, Path]) -> Any:
    """The engine library's own object, with the options that the engine here gives it."""
    cores = host.cores()
    engines.silence()
    if name == "onnxruntime":
        import onnxruntime as ort

        from runtime.engines.onnxruntime import settings

        chosen = settings(ort, OPTIONS[name], cores)
        return ort.InferenceSession(str(files["model"]), chosen, providers=["CPUExecutionProvider"])
    import openvino as ov

    from runtime.engines.openvino import properties

    core = ov.Core()
    model = core.read_model(str(files["model"]), str(files["weights"]))
    return core.compile_model(model, "CPU", properties(OPTIONS[name], cores)).create_infer_request()


def loaded(name: str, bundle: Path, files: dict[str, Path], rounds: int) -> dict[str, float]:
    def hashed() -> None:
        for file in bundle.rglob("*"):
            if file.is_file() and file.name != "manifest.json":
                sha256(file)

    ms = in_turn(
        {"bare": lambda: bare(name, files), "ours": lambda: runtime.load(bundle).close(), "hash": hashed}, rounds, 1
    )
    return {
        "load_ms": ms["ours"] / 1e6,
        "load_hash_ms": ms["hash"] / 1e6,
        "load_ratio": (ms["ours"] - ms["hash"]) / ms["bare"],
        "load_extra_ms": (ms["ours"] - ms["hash"] - ms["bare"]) / 1e6,
    }


def called(name: str, bundle: Path, files: dict[str, Path], rounds: int) -> dict[str, float]:
    session = bare(name, files)
    with runtime.load(bundle) as model:
        spec = model.inputs[0]
        x = np.random.default_rng(0).standard_normal(spec.sized({})).astype(spec.dtype)
        feeds = {spec.name: x}
        raw: Callable[[], object] = (
            (lambda: session.run(None, feeds))
            if name == "onnxruntime"
            else (lambda: session.infer(feeds, share_inputs=True))
        )
        ns = in_turn({"bare": raw, "run": lambda: model.run(feeds), "call": lambda: model(x)}, rounds, 100)
    return {
        "call_us": ns["call"] / 1e3,
        "call_overhead_us": (ns["call"] - ns["bare"]) / 1e3,
        "run_overhead_us": (ns["run"] - ns["bare"]) / 1e3,
    }


def throughput(bundle: Path, files: dict[str, Path], seconds: float) -> dict[str, float]:
    """Calls a second with four under way: ours over OpenVINO's `AsyncInferQueue`, streams and threads the same."""
    import openvino as ov

    from runtime.engines.openvino import properties

    cores = host.cores()
    asked = {**OPTIONS["openvino"], "threads": cores, "streams": cores, "hint": "throughput"}
    core = ov.Core()
    compiled = core.compile_model(core.read_model(str(files["model"])), "CPU", properties(asked, cores))
    queue = ov.AsyncInferQueue(compiled, IN_FLIGHT)
    with runtime.load(bundle, threads=cores, streams=cores) as model:
        spec = model.inputs[0]
        x = np.random.default_rng(0).standard_normal(spec.sized({})).astype(spec.dtype)

        def theirs() -> float:
            count, begun = 0, time.perf_counter()
            while time.perf_counter() - begun < seconds / 8:
                queue.start_async({0: x}, share_inputs=True)
                count += 1
            queue.wait_all()
            return count / (time.perf_counter() - begun)

        def ours() -> float:
            count, begun = 0, time.perf_counter()

            def calls() -> Any:
                while time.perf_counter() - begun < seconds / 8:
                    yield x

            for _ in model.map(calls()):
                count += 1
            return count / (time.perf_counter() - begun)

        ratios, rates = [], []
        for _ in range(8):
            a, b = theirs(), ours()
            ratios.append(b / a)
            rates.append(b)
    return {"throughput_per_s": float(np.median(rates)), "throughput_ratio": float(np.median(ratios))}


def in_turn(calls: dict[str, Callable[[], object]], rounds: int, block: int) -> dict[str, float]:
    """Median nanoseconds of each, in blocks in random order."""
    random = np.random.default_rng(0)
    taken: dict[str, list[int]] = {name: [] for name in calls}
    for _ in range(rounds + 1):  # the first is dropped
        for name in random.permutation(list(calls)):
            call = calls[str(name)]
            for _ in range(block):
                begun = time.perf_counter_ns()
                call()
                taken[str(name)].append(time.perf_counter_ns() - begun)
    return {name: float(np.median(values[block:])) for name, values in taken.items()}


if __name__ == "__main__":
    sys.exit(main())
