"""The command line. Each command imports what it needs, numpy too, so that `optimize --help` answers at once."""

import functools
import sys
import tempfile
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

P = ParamSpec("P")

cli = typer.Typer(
    help="From a trained model and real data to a measured, verified bundle that an edge device runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

MODELS = "model.onnx, file.py:callable, .skops, .ubj, .txt, .keras, .tflite, or a SavedModel's folder"
Out = Annotated[Path, typer.Option("--out", help="The folder for bundle, report and log.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Weights = Annotated[str | None, typer.Option(help="A checkpoint for file.py:callable: state dict or safetensors.")]
Shape = Annotated[
    list[str] | None, typer.Option(help="Of an input: batch,3,32,32, or NAME=batch,3,32,32:dtype; a word is an axis.")
]
Trust = Annotated[bool, typer.Option("--trust", help="Allow unpickling the model or checkpoint: it can run code.")]
States = Annotated[
    list[str] | None, typer.Option("--state", help="INPUT=OUTPUT: what the next call takes; may be repeated.")
]
Fixed = Annotated[list[str] | None, typer.Option("--fix", help="INPUT=NUMBER that it always gets; may be repeated.")]
MaxDrop = Annotated[str | None, typer.Option(help="0.005, 0.5pp or 1%; 1pp by default.")]
Objective = Annotated[str | None, typer.Option(help="latency, size, memory or throughput.")]
Only = Annotated[list[str] | None, typer.Option(help="Make only candidates of this name, *int8* say; may be repeated.")]
Skip = Annotated[list[str] | None, typer.Option(help="Make no candidates of this name; may be repeated.")]
Redo = Annotated[list[str] | None, typer.Option(help="Make candidates of this name again, not from the cache.")]
Time = Annotated[str | None, typer.Option("--time", help="30m, 2h or seconds, after which no more is tried.")]
Quick = Annotated[bool, typer.Option("--quick", help="int8 in the one way that mostly holds; one short look at all.")]
MetricName = Annotated[str | None, typer.Option("--metric", help="accuracy, top5, mse, mae, or file.py:function.")]
Better = Annotated[str | None, typer.Option(help="higher or lower, for a metric of your own.")]
Strict = Annotated[bool, typer.Option("--strict", help="'cannot tell' counts as not met: exit code 1.")]


def app() -> int:
    """Run the command line; returns the exit code."""
    import_module("optimize.cli_bundles")  # registers the commands in it
    try:
        cli()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


def command(function: Callable[P, int]) -> Callable[P, None]:
    """Register a command; its errors become one message and an exit code."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        from runtime.errors import InputError, WorkError

        try:
            code = function(*args, **kwargs)
        except (InputError, WorkError) as error:
            typer.echo(f"error: {error}", err=True)
            code = 2 if isinstance(error, InputError) else 3
        except KeyboardInterrupt:
            typer.echo("interrupted; earlier results are as they were. To go on, run the same again.", err=True)
            code = 130
        except BrokenPipeError:  # the reader of our output has gone, `| head` say
            code = 0
            sys.stderr.close()
        except Exception as error:  # a defect of ours: say it in a line, keep the trace
            with tempfile.NamedTemporaryFile("w", prefix="optimize-", suffix=".txt", delete=False) as file:
                file.write(traceback.format_exc())
            typer.echo(f"error: unexpected {type(error).__name__}: {error}. The trace is in {file.name}", err=True)
            code = 3
        raise typer.Exit(code)

    return cli.command(function.__name__.rstrip("_"))(guarded)


@command
def demo(
    name: Annotated[str, typer.Argument(help="Of the example; --list shows them.")] = "digits",
    list_: Annotated[bool, typer.Option("--list", help="Show the examples.")] = False,
    out: Out = Path("optimize-demo"),
    seed: Annotated[int, typer.Option(help="Of the training.")] = 0,
    json: Json = False,
) -> int:
    """Do the whole way on scikit-learn's digits, or another example: train, optimize, measure, bundle."""
    from optimize.demo import about, demo

    if list_:
        print_({"examples": about()}, json)
        return 0
    found = demo(name, out, seed)
    code = _show(found.report, out, json)
    for text in filter(None, (found.shown, found.line)):
        typer.echo(text, err=json)
    return code if found.above else 1


@command
def run(
    model: Annotated[str | None, typer.Argument(help=f"RECIPE.toml, {MODELS}.", metavar="RECIPE|MODEL")] = None,
    data: Annotated[str | None, typer.Option(help="data.npz, data.csv, or file.py:callable.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Where to deploy to; may be repeated.")] = None,
    metric: MetricName = None,
    better: Better = None,
    weights: Weights = None,
    shape: Shape = None,
    state: States = None,
    fix: Fixed = None,
    max_drop: MaxDrop = None,
    objective: Objective = None,
    only: Only = None,
    skip: Skip = None,
    redo: Redo = None,
    time: Time = None,
    quick: Quick = False,
    out: Annotated[Path | None, typer.Option(help="The folder to write: optimized, or reproduced.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE in the recipe.")] = None,
    locked: Annotated[Path | None, typer.Option(help="DIR/recipe.lock: make that again, bit by bit.")] = None,
    trust: Trust = False,
    strict: Strict = False,
    json: Json = False,
) -> int:
    """Make, measure and choose candidates, and write the bundle and the report."""
    from optimize.pipeline import run

    out = out or Path("reproduced" if locked else "optimized")
    report = run(
        model, out=out, changes=_changes(set_, quick=quick, only=only, skip=skip, redo=redo, time=time), locked=locked,
        strict=strict, data=data, targets=target, metric=metric, better=better, weights=weights, shape=shape,
        max_drop=max_drop, objective=objective, trust=trust, states=state, fixed=fix,
    )  # fmt: skip
    return _show(report, out, json)


@command
def plan(
    model: Annotated[str, typer.Argument(help=f"RECIPE.toml, {MODELS}.", metavar="RECIPE|MODEL")],
    data: Annotated[str | None, typer.Option(help="data.npz, data.csv, or file.py:callable.")] = None,
    target: Annotated[list[str] | None, typer.Option(help="Where to deploy to; may be repeated.")] = None,
    metric: MetricName = None,
    better: Better = None,
    weights: Weights = None,
    shape: Shape = None,
    state: States = None,
    fix: Fixed = None,
    max_drop: MaxDrop = None,
    objective: Objective = None,
    only: Only = None,
    skip: Skip = None,
    time: Time = None,
    quick: Quick = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE in the recipe.")] = None,
    trust: Trust = False,
    json: Json = False,
) -> int:
    """What a run would do, which targets take the model here, and how long it takes; writes nothing."""
    from optimize.preflight import preflight

    changes = _changes(set_, quick=quick, only=only, skip=skip, time=time)
    found = preflight(
        model, changes, data=data, targets=target, metric=metric, better=better, weights=weights, shape=shape,
        max_drop=max_drop, objective=objective, trust=trust, states=state, fixed=fix,
    )  # fmt: skip
    print_(found, json)
    return int(all(row["runs_here"] == "no" for row in found["targets"].values()))


@command
def init(
    model: Annotated[str | None, typer.Argument(help=f"{MODELS}.")] = None,
    data: Annotated[str | None, typer.Option(help="data.npz, data.csv, or file.py:callable.")] = None,
    weights: Weights = None,
    state: States = None,
    fix: Fixed = None,
    out: Annotated[Path, typer.Option("--out", help="The recipe to write.")] = Path("recipe.toml"),
    schema: Annotated[bool, typer.Option("--schema", help="Print the recipe's JSON schema, for editors.")] = False,
) -> int:
    """Write a commented recipe to edit."""
    from optimize import starter

    typer.echo(starter.schema() if schema else starter.write(model, data, weights, out, state or (), fix or ()))
    return 0


@command
def inspect(
    model: Annotated[str, typer.Argument(help=f"A bundle, {MODELS}.", metavar="MODEL|BUNDLE")],
    weights: Weights = None,
    trust: Trust = False,
    json: Json = False,
) -> int:
    """Print inputs, outputs, ops, size, precisions and sparsity."""
    from optimize import inspection

    print_(inspection.inspect(model, weights, trust), json)
    return 0


@command
def export(
    model: Annotated[str, typer.Argument(help="file.py:callable.", metavar="MODEL")],
    out: Annotated[Path, typer.Option("--out", help="The ONNX file to write.")] = Path("model.onnx"),
    data: Annotated[str | None, typer.Option(help="data.npz, or file.py:callable, to verify on.")] = None,
    weights: Weights = None,
    shape: Shape = None,
    opset: Annotated[int, typer.Option(help="Of the ONNX file.")] = 18,
    trust: Trust = False,
    json: Json = False,
) -> int:
    """Export to ONNX and verify, nothing else."""
    from optimize import flags

    print_(flags.export(model, out, data, weights, shape or [], opset, trust), json)
    return 0


@command
def eval_(
    models: Annotated[list[str], typer.Argument(help="The original, then others.", metavar="MODEL|BUNDLE...")],
    data: Annotated[str, typer.Option(help="data.npz, data.csv, or file.py:callable.")],
    metric: MetricName = None,
    better: Better = None,
    weights: Weights = None,
    state: States = None,
    fix: Fixed = None,
    max_drop: Annotated[str, typer.Option(help="0.005, 0.5pp or 1%.")] = "1pp",
    split: Annotated[str | None, typer.Option(help="calibrate, validate, test or all.")] = None,
    trust: Trust = False,
    strict: Strict = False,
    json: Json = False,
) -> int:
    """Accuracy of the first, and of the others against it, paired, with verdict."""
    from optimize import foreign

    found = foreign.evaluate_all(models, data, metric, better, weights, max_drop, split, trust, state or (), fix or ())
    return verdicts(found, strict, json)


@command
def bench(
    models: Annotated[list[str], typer.Argument(help="The base, then others.", metavar="MODEL|BUNDLE...")],
    data: Annotated[str | None, typer.Option(help="data.npz, or file.py:callable; else random numbers.")] = None,
    weights: Weights = None,
    shape: Shape = None,
    state: States = None,
    fix: Fixed = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples a call.")] = 1,
    budget: Annotated[float, typer.Option(min=0.1, help="Seconds a pair; never fewer than 8 rounds.")] = 20.0,
    paced: Annotated[
        float | None, typer.Option(min=0.1, help="Also calls so often a second, with sleep between.")
    ] = None,
    arrivals: Annotated[bool, typer.Option("--arrivals", help="Also calls at random times, at several loads.")] = False,
    soak: Annotated[float | None, typer.Option(min=4, help="Also a hot loop of so many seconds.")] = None,
    energy: Annotated[bool, typer.Option("--energy", help="Also joules a call, by RAPL or NVML.")] = False,
    batches: Annotated[list[int] | None, typer.Option(min=1, help="Also samples a second at this batch.")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="And with so many threads a call.")] = None,
    streams: Annotated[list[int] | None, typer.Option(min=1, help="And with so many calls at once.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture of the throughput to write (SVG).")] = None,
    ssh: Annotated[str | None, typer.Option(help="Time a bundle's engines on this host instead.")] = None,
    python: Annotated[str, typer.Option(help="The interpreter there.")] = "python3",
    out: Annotated[Path | None, typer.Option(help="The device's result, for optimize report DIR --add.")] = None,
    trust: Trust = False,
    json: Json = False,
) -> int:
    """Latency of the first, and of the others against it, interleaved, with verdict."""
    if ssh is not None:
        from optimize import remote

        print_(remote.bench(models, ssh, python, budget, out), json)
        return 0
    from optimize.bench import Scenarios, bench_all
    from optimize.scenarios import Sweep
    from runtime.errors import InputError

    sweep = Sweep(tuple(batches or ()), tuple(threads or ()), tuple(streams or ()))
    if out:
        raise InputError("--out is for --ssh HOST; here --json prints the result.")
    if plot and sweep == Sweep():
        raise InputError("--plot draws throughput: give --batches, --threads or --streams, several times.")
    asked = Scenarios(paced, arrivals, soak, energy, sweep)
    found = bench_all(models, data, weights, shape or [], batch, budget, trust, asked, state or (), fix or ())
    print_(found, json)
    if plot:
        from optimize.report import plots

        plots.write_throughput(found.get("throughput", ()), plot)
    return 0


@command
def compare(
    old: Annotated[Path, typer.Argument(help="A folder of optimize run, or its report.json.")],
    new: Annotated[Path, typer.Argument(help="Another.")],
    fail_if: Annotated[
        list[str] | None, typer.Option(help="'latency > 5%', 'accuracy < -0.5pp'; may be repeated.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML to write.")] = None,
    csv: Annotated[Path | None, typer.Option(help="A CSV table to write.")] = None,
    summary: Annotated[
        Path | None, typer.Option(envvar="GITHUB_STEP_SUMMARY", help="Markdown to append to; CI's step summary.")
    ] = None,
    strict: Strict = False,
    json: Json = False,
) -> int:
    """What changed between two runs, with intervals; a gate for CI with --fail-if."""
    from optimize import compare, gate_forms

    found = compare.compare(old, new, fail_if or [])
    gate_forms.write(found, strict, junit, csv, summary)
    print_(compare.as_json(found, strict), json)
    return int(found.failed(strict))


@command
def doctor(json: Json = False) -> int:
    """Print what this machine can build and run, and the command that mends each lack."""
    from optimize import doctor

    print_(doctor.examine(), json)
    return 0


@command
def cache(
    action: Annotated[str, typer.Argument(help="ls, or clean.", metavar="ls|clean")],
    keep: Annotated[float, typer.Option(min=0.0, help="MiB to keep when cleaning: what was used last.")] = 0.0,
    json: Json = False,
) -> int:
    """Print or clean the results of steps that later runs take up again."""
    from runtime.cache import Cache, default_folder
    from runtime.errors import InputError

    kept = Cache(default_folder())
    if action not in ("ls", "clean"):
        raise InputError(f"optimize cache takes ls or clean; got '{action}'.")
    if action == "clean":
        print_({"folder": str(kept.folder), "bytes_freed": kept.clean(int(keep * 2**20))}, json)
        return 0
    entries = {name[:12]: {"step": facts.get("use", ""), "bytes": size} for name, facts, size, _ in kept.entries()}
    total = sum(row["bytes"] for row in entries.values())
    print_({"folder": str(kept.folder), "entries": len(entries), "bytes": total, "results": entries or "none"}, json)
    return 0


def _show(report: Any, out: Path, json: bool) -> int:
    if json:
        typer.echo(report.model_dump_json(by_alias=True))
    else:
        from optimize.report import terminal

        terminal.show(report, out)
    return int(report.exit_code)


def verdicts(found: dict[str, Any], strict: bool, json: bool) -> int:
    """Print models with their verdicts; the exit code is 1 where one exceeds, or with `strict` cannot be told."""
    print_(found, json)
    verdicts = [row.get("verdict") for row in found["models"].values()]
    return int("exceeds" in verdicts or (strict and "cannot tell" in verdicts))


def print_(found: dict[str, Any], json: bool) -> None:
    """Print a result, for a person or as JSON."""
    if json:
        import json as as_json

        typer.echo(as_json.dumps(found, indent=1, default=str))
    else:
        from optimize.report import plain

        plain.show(found)


def _changes(set_: list[str] | None, **search: list[str] | str | bool | None) -> list[str]:
    """What --set changes in the recipe, and the flags of [search] in its form."""
    import json

    return [*(set_ or ()), *(f"search.{key}={json.dumps(value)}" for key, value in search.items() if value)]
