"""`python -m runtime run|bench|check|report-bug BUNDLE`: for a device that has the runtime and one engine library."""

import argparse
import json
import platform
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from runtime import bundle as bundles
from runtime import engines, loading
from runtime.bundle import Bundle
from runtime.contender import Contender
from runtime.errors import EngineError, Error, InputError, WorkError
from runtime.host import facts
from runtime.intervals import percentile, verdict
from runtime.measure import measure
from runtime.streaming import check_states
from runtime.tensors import Array, check_feeds

SCHEMA = 1  # of what `bench --out` writes


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit code is 0, or 2 for bad input, 3 where the work failed, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m runtime", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("run", "run the model on the arrays of an .npz file, or on a raw sample where the bundle has preprocessing"),
        ("bench", "time every engine of the bundle that runs here against its plain fp32 model"),
        ("check", "verify every file, open every engine, and compare its answers with those from where it was built"),
        ("report-bug", "pack versions, machine, manifest and log into one file; no weights, no data"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("bundle", help="the folder that `optimize run` wrote, or a .zip of it")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        command.add_argument("--model", help="which one, of a bundle with several")
        command.add_argument("--verify-key", help="the public key (PEM) of whoever must have signed the bundle")
        command.add_argument("--no-rebuild", action="store_true", help="compile no engine anew that does not fit here")
        if name in ("run", "bench"):
            command.add_argument(
                "--input",
                help=".npz, an array for each input by name (of a model with states, without these: recordings, "
                "(samples, steps, ...)); or a picture, a recording, a file of text",
            )
            command.add_argument("--text", nargs="+", help="a text, or the two of a pair, where the bundle takes text")
        if name == "run":
            command.add_argument("--output", help=".npz for the outputs", default="outputs.npz")
            command.add_argument("--engine", help="take this engine or none")
            command.add_argument("--check", action="store_true", help="refuse an engine that answers otherwise here")
        if name == "bench":
            command.add_argument("--budget", type=float, default=20.0, help="seconds (20)")
            command.add_argument("--out", help="also write it into this file, for `optimize report DIR --add FILE`")
        if name == "report-bug":
            command.add_argument("--out", help="the .zip to write", default="bug.zip")
            command.add_argument("--log", help="a log file to pack too: its last MiB")
    options = parser.parse_args(argv)
    if options.command == "run" and not options.input and not options.text:
        parser.error("there is nothing to run on: give --input FILE, or --text.")
    try:
        result = {"run": _run, "bench": _bench, "check": _check, "report-bug": _report_bug}[options.command](options)
    except (InputError, WorkError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 3
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(json.dumps(result, indent=1) if options.json else _text(result))
    return 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    with loading.load(
        options.bundle, options.engine, model=options.model, verify_key=options.verify_key, check=options.check,
        rebuild=not options.no_rebuild,
    ) as model:  # fmt: skip
        feeds, streaming = _feeds(model.bundle, options)[0], check_states(model.bundle.states, model.bundle.specs)
        if streaming and not streaming.holds(feeds):
            check_feeds(streaming.recorded(feeds), feeds)
            results = streaming.unrolled(model.run, feeds)
        else:
            results = model.run(feeds)
        _save(options.output, results)
        shapes = {name: f"{value.dtype}{list(value.shape)}" for name, value in results.items()}
        return {"engine": model.engine, "outputs": shapes, "written to": options.output}


def _check(options: argparse.Namespace) -> dict[str, Any]:
    bundle, host = bundles.read(options.bundle, options.model, options.verify_key), facts()
    found: dict[str, Any] = {}
    for entry in loading.considered(bundle):
        row: dict[str, Any] = {"runs_here": False, "needs": dict(entry.needs)}
        try:
            row["found"] = engines.get(entry.engine).facts()
            wishes = loading.Wishes(rebuild=not options.no_rebuild, check=True)
            opened = loading.open_entry(bundle, entry, host, wishes)
            opened.session.close()
            row |= {"runs_here": True, "why": opened.how.replace(loading.FIRST, "as it was built")}
            if entry.golden and opened.off is not None:
                row |= {"golden_off_by": float(f"{opened.off:.3g}"), "golden_allowed": entry.golden.tolerance}
            else:
                row["golden_off_by"] = None  # there is nothing to compare with
        except (EngineError, InputError) as error:
            row["why"] = str(error)
        found[entry.name] = row
    if not any(row["runs_here"] for row in found.values()):
        reasons = "; ".join(f"{name}: {row['why']}" for name, row in found.items())
        raise WorkError(f"every file is as it was written, but no engine runs here: {reasons}")
    return {"files": f"{len(bundle.files)} as they were written", "engines": found}


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    bundle = bundles.read(options.bundle, options.model, options.verify_key)
    feeds, source = _feeds(bundle, options)
    check_feeds(bundle.specs.inputs, feeds)
    usable = [name for name, row in _check(options)["engines"].items() if row["runs_here"]]
    base = next((name for name in usable if name.startswith("fallback")), usable[0])
    names = [base, *(name for name in usable if not name.startswith("fallback"))]
    kinds = {entry.name: entry.engine for entry in loading.considered(bundle)}
    contenders = [
        Contender(
            name, "runtime.worker:open_bundle", {"path": str(bundle.path.resolve()), "engine": name},
            modules=engines.get(kinds[name]).FORKABLE,
        )
        for name in dict.fromkeys(names)
    ]  # fmt: skip
    found = measure(contenders, feeds, budget_s=options.budget, progress=_progress)
    rows: dict[str, Any] = {}
    for name in names:
        if name not in found.traces:
            continue
        trace, ratio = found.traces[name], found.ratio(name)
        middle, low, high = (value / 1e6 for value in percentile(trace.samples, 0.5))
        rows[name] = {
            "p50_ms": round(middle, 4),
            "p50_interval_ms": [round(low, 4), round(high, 4)],
            "engine_only_ms": trace.inside_ms and round(trace.inside_ms, 4),
            "ratio": [round(value, 3) for value in (ratio.value, ratio.low, ratio.high)],
            "verdict": "the base" if name == base else verdict(ratio, found.margin),
            "threads": trace.threads,
            "cold_start_ms": round(float(np.median(trace.cold_start_ms)), 1),
            "peak_memory_bytes": trace.peak_memory_bytes,
        }
    result = {
        "schema": SCHEMA, "bundle": bundles.sha256(bundle.path / bundles.MANIFEST), "device": platform.node(),
        "input": source, "rounds": found.rounds, "stopped_by": found.stopped, "margin": round(found.margin, 4),
        "machine": facts().to_json(), "engines": rows, "failed": dict(found.failed),
    }  # fmt: skip
    if options.out:
        try:
            Path(options.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{options.out} cannot be written: {error.strerror}") from error
    return result


def _report_bug(options: argparse.Namespace) -> dict[str, Any]:
    from runtime import bugreport

    try:
        tried = _check(options)
    except Error as error:  # this is what the report is about
        tried = {"error": f"{type(error).__name__}: {error}"}
    log = Path(options.log) if options.log else None
    names = bugreport.write(Path(options.bundle), Path(options.out), log, tried)
    return {"written to": options.out, "files": names}


def _feeds(bundle: Bundle, options: argparse.Namespace) -> tuple[dict[str, Array], str]:
    """What to call the model with, and where it comes from."""
    path, texts = options.input, options.text
    if path and not texts and (path.endswith(".npz") or not bundle.pre):
        feeds = _arrays(path)
    elif path or texts:
        made = bundle.preprocessing()
        if made is None:
            raise InputError("this bundle has no preprocessing, and takes no text: give --input, an .npz of arrays.")
        feeds = made({name: [value] for name, value in _raw(bundle, path, texts or []).items()})
    else:
        random = np.random.default_rng(0)
        sizes = {axis: limits.get("best", 1) for axis, limits in bundle.axes.items()}
        made_up = {
            spec.name: random.standard_normal(spec.sized(sizes)).astype(spec.dtype) for spec in bundle.specs.inputs
        }
        return made_up, "random numbers, since no --input was given"
    return feeds, path or "--text"


def _raw(bundle: Bundle, path: str | None, texts: list[str]) -> dict[str, str]:
    """One raw sample by column: a text, or the path of a file; text may come from the file too."""
    columns = [(name, spec.kind) for spec in bundle.pre for name in spec.columns]
    if path and not texts and all(kind == "text" for _, kind in columns):
        try:
            texts, path = [Path(path).read_text(encoding="utf-8").strip()], None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as text: {error}") from error
    given = {"text": list(texts), "": [path] if path else []}
    try:
        found = {name: given["text" if kind == "text" else ""].pop(0) for name, kind in columns}
    except IndexError:
        found = {}
    if not found or any(given.values()):
        listed = ", ".join(f"{name} ({kind})" for name, kind in columns)
        raise InputError(
            f"a raw sample of this bundle has {listed}: give as many texts by --text, and a file by --input."
        )
    return found


def _arrays(path: str) -> dict[str, Array]:
    try:
        with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} cannot be read as .npz: {error}") from error


def _save(path: str, arrays: dict[str, Array]) -> None:
    """As numpy.savez, under exactly this name, and for outputs of any name."""
    try:
        with zipfile.ZipFile(path, "w") as file:
            for name, value in arrays.items():
                with file.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, np.asarray(value), allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error


def _progress(done: int, expected: int, what: str) -> None:
    if done:
        print(f"{done} of about {expected} rounds", file=sys.stderr)


def _text(result: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in result.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", _text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
