"""`optimize eval` and `optimize recheck`: models and bundles of any origin, against the first of them."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from optimize import flags, judge, sources
from optimize.baked import Baked
from optimize.data import NAMES
from optimize.evaluate import evaluate
from optimize.models import read_onnx
from optimize.progress import Progress
from optimize.report import json
from optimize.sources import UNKNOWN, Meaning, ModelSpec
from optimize.subject import read_data
from optimize.tables import allowed_drop
from runtime import bundle as bundles
from runtime import engines, loading
from runtime.contender import Contender
from runtime.errors import InputError
from runtime.listing import unknown
from runtime.pre import PreSpec
from runtime.streaming import check_states
from runtime.tensors import Specs, TensorSpec

BATCH = 16  # samples a call of `eval`, where the batch is dynamic


class Contestant(NamedTuple):
    """What runs a place, its inputs where it says them itself, what makes these of raw samples, what answers mean."""

    contender: Contender
    inputs: tuple[TensorSpec, ...]
    pre: tuple[PreSpec, ...] = ()
    meaning: Meaning = UNKNOWN


def evaluate_all(
    places: Sequence[str], data: str, metric: str | None, better: str | None, weights: str | None, max_drop: str,
    split: str | None, trust: bool, states: Sequence[str] = (), fixed: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Accuracy of each, and its drop against the first, paired on the same samples.

    `states` are INPUT=OUTPUT, `fixed` INPUT=NUMBER; a model of those that has no such input does without.

    Raises:
        InputError: something is not there, or does not fit.
        WorkError: the first of them failed.
    """
    found = line(places, (), weights, trust, states, fixed)
    return judged(found, data, metric, better, max_drop, split)


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
    meaning = UNKNOWN
    if (Path(place) / "report" / "report.json").exists():
        report = json.read(Path(place) / "report")
        asked = report.recipe
        meaning = meaning if report.data.labels else Meaning(agreement=report.data.metric)
    plain = next(entry for entry in loading.considered(bundle) if entry not in bundle.engines)
    opener, arguments = "runtime.worker:open_bundle", {"path": _absolute(place)}
    streaming = check_states(bundle.states, bundle.specs)
    found = [
        Contestant(
            Contender(
                entry.name, opener, {**arguments, "engine": entry.name},
                streaming=streaming, modules=engines.get(entry.engine).FORKABLE,
            ),
            inputs,
            bundle.pre_here(),
            meaning,
        )
        for entry in (plain, *bundle.engines)
    ]  # fmt: skip
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
    original = contestants[0]
    streaming = original.contender.streaming
    inputs, material = read_data(
        data, None, metric, better, original.inputs, progress, original.pre, streaming=streaming,
        meaning=original.meaning,
    )  # fmt: skip
    contenders = line_up(contestants, inputs)
    splits = material.splits
    chosen = split or ("all" if splits.divided else "test")
    if chosen not in (*NAMES, "all"):
        raise InputError(unknown("split", chosen, (*NAMES, "all")))
    part = splits.whole() if chosen == "all" else getattr(splits, chosen)
    total = sum(facts.samples for name, facts in material.facts.items() if chosen in (name, "all"))
    fixed = {spec.shape[0] for one in contestants for spec in one.inputs[:1] if isinstance(spec.shape[0], int)}
    batch = int(min(fixed)) if fixed else 1 if streaming else BATCH  # recordings are of different lengths
    notes = list(material.notes)
    try:
        notes += material.try_out(contenders[0], inputs, part, batch, log, min(batch, int(min(fixed, default=1))))
    except Baked as error:
        notes.append(f"{str(error).partition('. ')[0]}; one sample a call was taken")
        batch = 1
        notes += material.try_out(contenders[0], inputs, part, batch, log, batch)
    scores = evaluate(
        contenders, part, material.metric, batch, fixed=bool(fixed), log=log,
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
        **({"streamed": f"a sample is a recording, states: {', '.join(streaming.states)}"} if streaming else {}),
        "models": rows,
        "notes": notes,
        "log": str(log),
    }


def line(
    places: Sequence[str], inputs: tuple[TensorSpec, ...], weights: str | None, trust: bool, states: Sequence[str],
    fixed: Sequence[str],
) -> list[Contestant]:  # fmt: skip
    """A contestant a place; where the first is a bundle with states, and none are said, the others have these too.

    Raises:
        InputError: one is not there, or has no such states; or none has an input that is to be fixed.
    """
    said, numbers = flags.pairs("--state", states), flags.numbers("--fix", fixed)
    if numbers:
        held = {one.name for place in places if place.endswith(".onnx") for one in read_onnx(Path(place)).specs.inputs}
        if odd := sorted(numbers.keys() - held):
            raise InputError(unknown("input to fix", odd[0], held))
    found: list[Contestant] = []
    for place in places:
        found.append(contestant(place, inputs, weights, trust, said, numbers))
        if found[0][0].streaming and not said:
            said = dict(found[0][0].streaming.states)
    return found


def contestant(
    place: str, inputs: tuple[TensorSpec, ...], weights: str | None, trust: bool, states: Mapping[str, str],
    fixed: Mapping[str, float],
) -> Contestant:  # fmt: skip
    """What runs a place, and its inputs where it says them itself; what it has not is not fixed."""
    path = Path(place)
    if path.is_dir() and not sources.claimed(place):
        bundle = bundles.read(path)
        streaming = check_states(bundle.states or states, bundle.specs)
        opener = Contender(place, "runtime.worker:open_bundle", {"path": _absolute(place)}, streaming=streaming)
        return Contestant(opener, bundle.specs.inputs, bundle.pre_here())
    source = sources.detect(place)
    if source == "onnx":
        known = read_onnx(path).specs
        held = {name: value for name, value in fixed.items() if name in {one.name for one in known.inputs}}
        spec = ModelSpec(source, _absolute(place), states=states, fixed=held)
        left = sources.load(spec).inputs
        streaming = check_states(states, Specs(left, known.outputs))
        if held:
            return Contestant(replace(spec, inputs=left).contender(place), left)
        arguments = {
            "engine": "onnxruntime", "files": {"model": _absolute(place)}, "specs": known.to_json(), "options": {},
        }  # fmt: skip
        return Contestant(Contender(place, "runtime.worker:open_engine", arguments, streaming=streaming), left)
    if states and not inputs:
        raise InputError(f"{place} does not say the shapes of its states: optimize export it, and give the ONNX file.")
    check_states(states, Specs(inputs, ()))
    weights = _absolute(weights) if weights else None
    spec = ModelSpec(source, _absolute(place), weights, inputs, trust, states=states)
    loaded = sources.load(spec)  # what is wrong with it is said here, not by a worker
    # an estimator's columns may be inputs of their own, as the data has them
    taken = inputs or (() if source == "sklearn" else loaded.inputs)
    return Contestant(spec.contender(place), taken, loaded.pre, loaded.meaning)


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
    for index, (contender, own, *_) in enumerate(contestants):
        if own and len(own) != len(inputs):
            raise InputError(f"{contender.name} takes {len(own)} inputs, the first takes {len(inputs)}.")
        if not own:  # a torch model takes what the data has
            spec = contender.arguments["spec"]
            plain = [one.to_json() for one in inputs]
            contender = replace(contender, arguments={"spec": {**spec, "inputs": plain}})
        rename = {theirs.name: mine.name for theirs, mine in zip(inputs, own, strict=False) if theirs.name != mine.name}
        if {theirs.name for theirs in inputs} == {mine.name for mine in own}:  # in another order
            rename = {}
        name = contender.name if contender.name not in {c.name for c in found} else f"{contender.name} ({index + 1})"
        found.append(replace(contender, name=name, rename=rename))
    return found


def _absolute(place: str) -> str:
    return str(Path(place).absolute())
