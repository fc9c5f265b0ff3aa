"""int8 on models that nobody here made: every method of `quantize_static`, repaired, beside the libraries' defaults.

    python benchmarks/quantization.py --zoo DIR [--quick] [--json FILE] [MODEL ...]

DIR holds common.py and a folder a model. Of each model and engine: plain fp32; ONNX Runtime's quantizer and NNCF
as they come (`int8-torch` is neural-compressor as it comes, of what is a torch model); ours by each library, and
repaired where one loses more than the recipe allows. All are compiled, judged on the recipe's test split by the real
engine, and timed interleaved. `--quick`: one model and engine, the first samples, few rounds.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from optimize.build import Builder, Built
from optimize.data import Split
from optimize.evaluate import evaluate
from optimize.models import OnnxModel, write_onnx
from optimize.steps import Context, Settings, behind
from optimize.steps._probes import batches
from optimize.steps._ready import in_float32
from runtime.engines import library
from runtime.errors import StepError

HERE = Path(__file__).parent / "zoo"
MODELS = ("resnet20", "resnet56_int8", "mobilenet_v1_025", "squeezenet", "minilm", "dncnn", "espnetv2", "fastestdet")
QUICK, QUICK_ROUNDS, QUICK_SAMPLES = ("resnet20",), 3, 1000
ENGINES = ("onnxruntime", "openvino")
ROUNDS = 8
COLUMNS = (
    "model",
    "engine",
    "method",
    "accuracy",
    "drop",
    "agreement",
    "sqnr_db",
    "p50_ms",
    "ratio",
    "low",
    "high",
    "mb",
)


class OnnxruntimeDefault(Settings):
    """`onnxruntime.quantization.quantize_static` with nothing said but the data."""

    label: ClassVar[str] = "int8 of ONNX Runtime's defaults"
    samples: int = 300

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx."""
        import onnx
        from onnxruntime.quantization import QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        ready, out = context.folder / "ready.onnx", context.folder / "out.onnx"
        write_onnx(in_float32(model, context), ready)  # neither takes an old opset or half precision
        feeds = batches(context.calibrate, model.specs, self.samples, 1)

        class Reader:
            def get_next(self) -> Any:
                return next(feeds, None)

        try:
            quant_pre_process(str(ready), str(ready), skip_symbolic_shape=True)
            quantize_static(str(ready), str(out), Reader(), quant_format=QuantFormat.QDQ)
        except Exception as error:  # its own errors share no base
            raise StepError(f"{type(error).__name__}: {error}") from error
        written = write_onnx(onnx.load(out), context.folder / "model.onnx")
        ready.unlink()
        out.unlink()
        return written


class NncfDefault(Settings):
    """`nncf.quantize` with nothing said but the data."""

    label: ClassVar[str] = "int8 of NNCF's defaults"
    samples: int = 300

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        """Write a model.onnx."""
        nncf: Any = library("nncf", "optimize")
        data = list(batches(context.calibrate, model.specs, self.samples, 1))
        try:
            rounded = nncf.quantize(in_float32(model, context), nncf.Dataset(data), subset_size=self.samples)
        except Exception as error:  # its own errors share no base
            raise StepError(f"{type(error).__name__}: {error}") from error
        return write_onnx(rounded, context.folder / "model.onnx")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--zoo", required=True, type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if unknown := set(options.models) - set(MODELS):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; known: {', '.join(MODELS)}")
    os.environ["ZOO"] = str(options.zoo.absolute())
    rows: list[dict[str, Any]] = []
    for name in options.models or (QUICK if options.quick else MODELS):
        with tempfile.TemporaryDirectory() as folder:
            rows += compared(name, Path(folder), options.quick)
        show([row for row in rows if row["model"] == name])
        if options.json:
            from runtime.host import facts

            found = {"machine": facts().to_json(), "rows": rows}
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def compared(name: str, work: Path, quick: bool) -> list[dict[str, Any]]:
    """A row for each method on each engine."""
    from optimize import metrics, plan, recipe, stages
    from optimize.deadline import Deadline
    from optimize.pipeline import DISTRIBUTIONS
    from optimize.progress import Progress
    from optimize.report import Detail, Row
    from optimize.steps.quantize_static import Step as QuantizeStatic
    from optimize.steps.repair import Step as Repair
    from optimize.subject import prepare
    from runtime import host
    from runtime.cache import Cache, default_folder
    from runtime.measure import measure

    used, rounds = (ENGINES[:1], QUICK_ROUNDS) if quick else (ENGINES, ROUNDS)
    zoo = Path(os.environ["ZOO"])
    changes = [f"model.path={zoo}/squeezenet_fp16_onnx/SqueezeNet_fp16.onnx"] if name == "squeezenet" else []
    asked = recipe.load(HERE / f"{name}.toml", changes)
    samples = next((step.samples for step in asked.all_steps() if isinstance(step, QuantizeStatic)), 300)
    ours = QuantizeStatic(method="auto", samples=samples)
    last = tuple(step for step in asked.all_steps() if step.last)
    asked = asked.model_copy(update={"steps": (ours, Repair(), *last), "targets": {engine: {} for engine in used}})
    progress = Progress(1)
    progress.stage(name)
    log = work / "log.txt"
    subject = prepare(asked, progress, log)
    if quick:
        splits = replace(subject.splits, test=first(subject.splits.test))
        subject = replace(subject, splits=splits, choice=first(subject.choice))
    builder = Builder(subject, Cache(default_folder()), host.versions(DISTRIBUTIONS), work, log, progress)
    candidates = [one for one in plan.expand(asked, host.facts()) if one.role != "vendor"]
    for engine in used:
        plain = plan.role_of(candidates, engine, "plain")
        for step in (OnnxruntimeDefault(samples=samples), NncfDefault(samples=samples)):
            steps = behind(plain.steps, step)
            candidates.append(replace(plain, name=f"{engine}-{step.label}", role="steps", steps=steps, repair=None))
    built, seen = stages.build(candidates, builder, Deadline())
    run = stages.Run(asked, subject, candidates, built, log, progress)
    seen[stages.ORIGINAL] = Row(name=stages.ORIGINAL, engine=asked.model_spec().source, status="measured")
    seen, max_drop = stages.accuracy(run, seen, "validate_", None)
    seen, look, _ = stages.first_look(run, seen)
    run, seen, untold = stages.mended(run, seen, builder, max_drop, look)
    for note in untold:
        progress.say(note)
    seen, _ = stages.accuracy(run, seen, "accuracy", max_drop)
    details: Mapping[str, Detail] = {one: row.detail for one, row in seen.items() if row.detail}
    if subject.contender.decoding:  # boxes have no noise: that of the raw outputs is told
        raw = [
            builder.build(replace(one, steps=tuple(step for step in one.steps if not step.last)))
            for one in run.candidates
            if seen[one.name].accuracy
        ]
        against = replace(metrics.get("mse"), own=lambda outputs, _: next(iter(outputs.values())))
        details = evaluate(
            [replace(subject.contender, decoding=None), *(one.contender for one in raw if isinstance(one, Built))],
            subject.splits.test, against, subject.evaluate_batch, log=log,
        ).details  # fmt: skip
    rows = []
    for engine in used:
        own = [one for one in run.candidates if one.target.name == engine]
        alive = [one for one in own if seen[one.name].accuracy]
        base = plan.role_of(own, engine, "plain").name
        order = [run.built[base].contender, *(run.built[one.name].contender for one in alive if one.name != base)]
        timed = measure(order, subject.feeds, rounds=rounds, log=log, progress=progress.count)
        for one in own:
            row: dict[str, Any] = dict.fromkeys(COLUMNS)
            row |= {"model": name, "engine": engine, "method": one.name.removeprefix(f"{engine}-")}
            judged = seen[one.name]
            row["seconds"] = sum(made.seconds or 0.0 for made in judged.made) if judged.made else None
            row["reason"] = judged.reason or None
            if test := judged.accuracy:
                row |= {"accuracy": test.value, "drop": test.drop, "drop_low": test.low, "drop_high": test.high}
                row["validate_drop"] = judged.validate_.drop if judged.validate_ else None
                row["mb"] = run.built[one.name].size_bytes / 1e6
            if detail := details.get(one.name):
                row |= {"agreement": detail.agreement, "sqnr_db": detail.sqnr_db}
            if one.name in timed.traces:
                row["p50_ms"] = float(np.median(timed.traces[one.name].samples)) / 1e6
                ratio = timed.ratio(one.name) if one.name != base else None
                row |= {"ratio": ratio.value, "low": ratio.low, "high": ratio.high} if ratio else {}
            row["floor"] = timed.floor
            rows.append(row)
    progress.close()
    return rows


def first(split: Split) -> Split:
    """As many samples as are judged in two minutes."""
    return Split(split.name, lambda: [split.take(QUICK_SAMPLES)], axes=split.axes)


def show(rows: list[dict[str, Any]]) -> None:
    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    table = [list(COLUMNS), *([cell(row[column]) for column in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(COLUMNS))]
    for line in table:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    for row in rows:
        if row.get("reason"):
            print(f"{row['engine']} {row['method']}: {row['reason']}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
