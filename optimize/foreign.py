"""`optimize eval` and `optimize recheck`: models and bundles of any origin, against the first of them."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optimize import judge, sources
from optimize.data import NAMES
from optimize.evaluate import evaluate
from optimize.models import read_onnx
from optimize.progress import Progress
from optimize.recipe import allowed_drop
from optimize.report import json
from optimize.sources import ModelSpec
from optimize.subject import read_data
from runtime import bundle as bundles
from runtime import loading
from runtime.contender import Contender
from runtime.errors import InputError
from runtime.listing import unknown
from runtime.tensors import TensorSpec

BATCH = 16  # samples a call of `eval`, where the batch is dynamic

Contestant = tuple[Contender, tuple[TensorSpec, ...]]


def evaluate_all(
    places: Sequence[str], data: str, metric: str | None, better: str | None, weights: str | None, max_drop: str,
    split: str | None, trust: bool,
) -> dict[str, Any]:  # fmt: skip
    """Accuracy of each, and its drop against the first, paired on the same samples.

    Raises:
        InputError: something is not there, or does not fit.
        WorkError: the first of them failed.
    """
    return judged([contestant(place, (), weights, trust) for place in places], data, metric, better, max_drop, split)


def recheck(
    place: str, data: str, metric: str | None, better: str | None, max_drop: str | None, split: str | None
) -> dict[str, Any]:
    """Every engine of a bundle that runs here, against the bundle's plain fp32 model, on other data.

    Metric and allowed drop are those of the bundle's report where none are given.

    Raises:
        InputError: the bundle or the data is not there, or does not fit.
        WorkError: the plain model failed, or no engine runs here.
    """
    bundle = bundles.read(place)
    inputs = bundle.specs.inputs
    asked: dict[str, Any] = {}
    if (Path(place) / "report" / "report.json").exists():
        asked = json.read(Path(place) / "report").recipe
    plain = next(entry for entry in loading.considered(bundle) if entry not in bundle.engines)
    names = [plain.name, *(entry.name for entry in bundle.engines)]
    found: list[Contestant] = [
        (Contender(name, "runtime.worker:open_bundle", {"path": _absolute(place), "engine": name}), inputs)
        for name in names
    ]
    known = asked.get("data", {})
    limit = max_drop or asked.get("constraints", {}).get("max_drop") or "1pp"
    return judged(found, data, metric or known.get("metric"), better or known.get("better"), str(limit), split)


def judged(
    contestants: Sequence[Contestant], data: str, metric: str | None, better: str | None, max_drop: str,
    split: str | None,
) -> dict[str, Any]:  # fmt: skip
    """Accuracy of each, and its drop against the first."""
    try:
        allowed_drop(max_drop, 1.0)
    except ValueError as error:
        raise InputError(f"--max-drop: {error}") from error
    log = Path(tempfile.mkdtemp(prefix="optimize-")) / "log.txt"
    progress = Progress(1)
    progress.stage("accuracy")
    inputs, material = read_data(data, None, metric, better, contestants[0][1], progress)
    contenders = line_up(contestants, inputs)
    splits = material.splits
    chosen = split or ("all" if splits.divided else "test")
    if chosen not in (*NAMES, "all"):
        raise InputError(unknown("split", chosen, (*NAMES, "all")))
    part = splits.whole() if chosen == "all" else getattr(splits, chosen)
    total = sum(facts.samples for name, facts in material.facts.items() if chosen in (name, "all"))
    fixed = {spec.shape[0] for _, specs in contestants for spec in specs[:1] if isinstance(spec.shape[0], int)}
    batch = int(min(fixed)) if fixed else BATCH
    material.try_out(contenders[0], part, batch, log)
    scores = evaluate(
        contenders, part, material.metric, batch, own_labels=material.own_labels, fixed=bool(fixed), log=log,
        progress=lambda done: progress.count(done, total, f"{len(contenders)} models"),
    )  # fmt: skip
    progress.close()
    yardstick = scores.statistics[contenders[0].name]
    first = judge.accuracy(material.metric, yardstick, None, 0.0)
    allowed = allowed_drop(max_drop, first.value)
    rows: dict[str, Any] = {contenders[0].name: {"status": "original", material.metric.name: first.value}}
    for contender in contenders[1:]:
        name = contender.name
        if name in scores.statistics:
            found = judge.accuracy(material.metric, yardstick, scores.statistics[name], allowed)
            seen = found.model_dump(include={"drop", "low", "high", "verdict", "samples_that_tell", "changed_p"})
            detail = scores.details[name].model_dump(
                include={"agreement", "flipped", "lost", "won", "calibration_error", "sqnr_db", "cosine"},
                exclude_none=True,
            )
            rows[name] = {"status": "measured", material.metric.name: found.value, **seen, **detail}
        else:
            lost = "failed" if name in scores.failed else "wrong"
            rows[name] = {"status": lost, "reason": {**scores.failed, **scores.wrong}[name]}
    return {
        "metric": material.metric.name,
        "split": chosen,
        "samples": first.samples,
        "max_drop": allowed,
        "models": rows,
        "notes": list(material.notes),
        "log": str(log),
    }


def contestant(place: str, inputs: tuple[TensorSpec, ...], weights: str | None, trust: bool) -> Contestant:
    """What runs a place, and its inputs where it says them itself."""
    path = Path(place)
    if path.is_dir() and not sources.claimed(place):
        bundle = bundles.read(path)
        return Contender(place, "runtime.worker:open_bundle", {"path": _absolute(place)}), bundle.specs.inputs
    source = sources.detect(place)
    if source == "onnx":
        model = read_onnx(path)
        files = {"model": _absolute(place)}
        arguments: dict[str, Any] = {"engine": "onnxruntime", "files": files, "specs": model.specs.to_json()}
        arguments["options"] = {}
        return Contender(place, "runtime.worker:open_engine", arguments), model.specs.inputs
    spec = ModelSpec(source, _absolute(place), _absolute(weights) if weights else None, inputs, trust)
    loaded = sources.load(spec)  # what is wrong with it is said here, not by a worker
    # an estimator's columns may be inputs of their own, as the data has them
    return spec.contender(place), inputs or (() if source == "sklearn" else loaded.inputs)


def threaded(contender: Contender, threads: int) -> Contender:
    """The same, with so many threads a call."""
    asked = {"threads": threads}
    arguments = dict(contender.arguments)
    inner = next((key for key in ("options", "spec") if key in arguments), None)
    arguments |= {inner: {**arguments[inner], **asked}} if inner else asked
    return replace(contender, arguments=arguments)


def line_up(contestants: Sequence[Contestant], inputs: tuple[TensorSpec, ...]) -> list[Contender]:
    """Contenders with names of their own, each fed by the names of the first's inputs.

    Raises:
        InputError: one takes another number of inputs.
    """
    found: list[Contender] = []
    for index, (contender, own) in enumerate(contestants):
        if own and len(own) != len(inputs):
            raise InputError(f"{contender.name} takes {len(own)} inputs, the first takes {len(inputs)}.")
        if not own:  # a torch model takes what the data has
            spec = contender.arguments["spec"]
            plain = [one.to_json() for one in inputs]
            contender = replace(contender, arguments={"spec": {**spec, "inputs": plain}})
        rename = {theirs.name: mine.name for theirs, mine in zip(inputs, own, strict=False) if theirs.name != mine.name}
        name = contender.name if contender.name not in {c.name for c in found} else f"{contender.name} ({index + 1})"
        found.append(replace(contender, name=name, rename=rename))
    return found


def _absolute(place: str) -> str:
    return str(Path(place).absolute())
