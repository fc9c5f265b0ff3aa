"""What each peer enters with, and what we do: prepared in processes of their own, and the best of their ways chosen."""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from optimize import plan
from optimize.build import Builder, Built
from optimize.data import Split, resized
from optimize.evaluate import evaluate
from optimize.judge import accuracy
from optimize.models import OnnxModel, write_onnx
from optimize.pipeline import DISTRIBUTIONS
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.report import Accuracy
from optimize.steps import Context
from optimize.steps._probes import batches
from optimize.steps._ready import in_float32
from optimize.steps.export import Step as Export
from optimize.subject import Subject, prepare
from optimize.tables import allowed_drop
from rivals import OURS, RAW, Task, Way
from runtime import host, listing
from runtime.bundle import read
from runtime.cache import Cache
from runtime.contender import Contender, Worker, call
from runtime.errors import Error, WorkError
from runtime.measure import measure

FEW_ROUNDS = 3  # of the choice among a peer's ways
MEMORY = 0.8  # of the machine's, for one process that prepares


@dataclass(frozen=True)
class Entry:
    """What came of one contender.

    Attributes:
        judged: None where nothing came of it.
        timed: the same, but for a batch that is fixed by then.
        settings: which of its variants and ways.
        others: other ways that answer alike, by their settings: other threads, whose times differ less than this
            machine's noise may tell in a short measurement.
        wall_s: what preparing it took, choosing included, and what it begins with though several share it.
        shared_s: of that, what they share: model and data read, the original's answers to choose by, and for all but
            torch the ONNX file.
        memory: that preparing it took at most, in bytes.
        reason: why there is none.
        tried: variant to what became of it.
    """

    name: str
    judged: Contender | None = None
    timed: Contender | None = None
    settings: str = ""
    others: Mapping[str, Contender] = field(default_factory=dict)
    wall_s: float = 0.0
    shared_s: float = 0.0
    memory: int = 0
    reason: str = ""
    tried: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    """One model with its data, and what all contenders share.

    Attributes:
        recorded: the original's answers on the samples to choose by.
        max_drop: in the metric's unit.
        reading_s: what it took to read model and data and to record those answers, with which each peer begins.
        exporting_s: what the ONNX file took, with which each peer but torch goes on.
        decode: the ONNX file of what makes boxes, say, of raw outputs, where the recipe asks for it; else empty.
        limit_s: of preparing a variant, and of our run.
    """

    asked: Recipe
    subject: Subject
    recorded: Contender
    task: Task
    max_drop: float
    reading_s: float
    exporting_s: float
    limit_s: float
    log: Path
    progress: Progress
    decode: str

    def clocked(self, contender: Contender) -> Contender:
        """As it is timed: where our engine's graph decodes the outputs, with that done on the clock too."""
        if not self.decode:
            return contender
        inner = {"opener": contender.opener, "arguments": dict(contender.arguments), "decode": self.decode}
        return replace(contender, opener="rivals:Decoded", arguments=inner, decoding=None)

    def accuracies(self, contenders: Iterable[Contender], split: Any) -> tuple[dict[str, Accuracy], dict[str, str]]:
        """By name, the original's among them; and why some have none."""
        original = self.recorded if split is self.subject.choice else self.subject.contender
        return _accuracies(self.subject, original, contenders, split, self.max_drop, self.log)


def field_of(asked: Recipe, work: Path, samples: int, olive: str, limit_s: float, progress: Progress) -> Field:
    """Load a model and its data, and write what the peers are given."""
    log, begun = work / "log.txt", time.monotonic()
    subject = prepare(asked, progress, log)
    place = {"place": _recorded(subject, work, log)}
    recorded = Contender(subject.contender.name, "rivals:Recorded", place, decoding=subject.contender.decoding)
    original = _accuracies(subject, recorded, [], subject.choice, 0.0, log)[0][recorded.name].value
    max_drop = allowed_drop(asked.constraints.max_drop, original)
    reading = time.monotonic() - begun
    progress.say("the model in ONNX")
    begun = time.monotonic()
    builder = Builder(subject, Cache(work / "export"), host.versions(DISTRIBUTIONS), work, log, progress)
    plain = plan.role_of(plan.expand(asked, host.facts(), subject.plans), next(iter(asked.targets)), "plain")
    # a peer begins with what torch itself exports
    steps = tuple(one.model_copy(update={"stock": True}) if isinstance(one, Export) else one for one in plain.steps)
    built = builder.build(replace(plain, steps=steps))
    if not isinstance(built, Built):
        raise WorkError(built.reason)
    context = Context(subject.splits.calibrate, subject.axes, plain.scheme, work)
    model = write_onnx(in_float32(built.body, context), work / "model.onnx")
    exporting = time.monotonic() - begun
    feeds = list(batches(subject.splits.calibrate, model.specs, samples))
    _save(work / "calibrate.npz", feeds)
    stored = list(subject.choice.batches())
    _save(work / "validate.npz", [one for one, _ in stored])
    np.save(work / "labels.npy", np.concatenate([labels for _, labels in stored]))
    task = Task(
        model=subject.contender.arguments["spec"], onnx=str(model.path), specs=model.specs.to_json(),
        calibrate=str(work / "calibrate.npz"), validate=str(work / "validate.npz"), labels=str(work / "labels.npy"),
        metric=subject.metric.name, better=asked.data.better, max_drop=max_drop, batch=subject.batch, out=str(work),
        limit_s=limit_s, olive=olive,
    )  # fmt: skip
    decode = _decode(asked, subject, model, context, work)
    return Field(asked, subject, recorded, task, max_drop, reading, exporting, limit_s, log, progress, decode)


def _decode(asked: Recipe, subject: Subject, model: OnnxModel, context: Context, work: Path) -> str:
    """What the recipe's last step puts behind a graph, as a graph of its own, so that peers decode no slower than we.

    Its inputs are the model's outputs, with RAW behind their names.
    """
    import onnx
    from onnx import helper

    last = next((step for step in asked.all_steps() if step.last), None)
    if last is None:
        return ""
    proto = onnx.load(model.path, load_external_data=False)
    outputs, inputs = list(proto.graph.output), [onnx.ValueInfoProto() for _ in proto.graph.output]
    for raw, output in zip(inputs, outputs, strict=True):
        raw.CopyFrom(output)
        raw.name = output.name + RAW
    nodes = [helper.make_node("Identity", [one.name + RAW], [one.name]) for one in outputs]
    graph = helper.make_graph(nodes, "decode", inputs, outputs)
    made = helper.make_model(graph, opset_imports=proto.opset_import, ir_version=proto.ir_version)
    with np.load(work / "original.npz") as stored:
        answers = {name + RAW: value for name, value in stored.items()}
    folder = work / "decode"
    folder.mkdir(exist_ok=True)
    split = Split("answers", lambda: [(answers, None)])
    decoded: Any = last(write_onnx(made, work / "raw.onnx"), replace(context, calibrate=split, folder=folder))
    return str(decoded.path)


def entered(on: Field, peer: str, quick: bool) -> Entry:
    """A peer's best: of its variants that lose no more than is allowed, the fastest way."""
    begun, memory, tried, ways = time.monotonic(), 0, dict[str, str](), dict[str, list[Way]]()
    variants = listing.get("rivals", peer, "peer").VARIANTS
    for variant in list(variants)[: 1 if quick else None]:
        on.progress.say(f"{peer}: {variant}")
        folder = Path(on.task.out) / peer / variant.replace(",", "").replace(" ", "_")
        try:
            found = call(
                "rivals:prepared", on.log, on.limit_s, int(MEMORY * host.facts(gpus=False).memory_bytes),
                peer=peer, task=vars(replace(on.task, out=str(folder))), settings=variants[variant],
            )  # fmt: skip
        except Error as error:
            tried[variant] = _short(error)
            continue
        memory = max(memory, found["peak_memory_bytes"])
        ways[variant] = [Way(**way) for way in found["ways"]]
    on.progress.say(f"{peer}: choosing")
    best = _chosen(on, ways, tried)
    shared = on.reading_s + (0.0 if peer.startswith("torch") else on.exporting_s)
    wall = time.monotonic() - begun + shared
    took: dict[str, Any] = {"wall_s": wall, "shared_s": shared, "memory": memory, "tried": tried}
    if best is None:
        return Entry(peer, reason="; ".join(f"{key}: {why}" for key, why in tried.items()), **took)
    settings, alike = best
    others = {other: _timed(on, f"{peer}: {other}", way) for other, way in alike.items() if other != settings}
    return Entry(peer, _judged(on, peer, alike[settings]), _timed(on, peer, alike[settings]), settings, others, **took)


def _chosen(on: Field, ways: Mapping[str, list[Way]], tried: dict[str, str]) -> tuple[str, dict[str, Way]] | None:
    """The fastest way of those that lose no more than is allowed, else of the one that loses least.

    Beside it are all that answer alike.
    """
    alike: dict[str, dict[str, Way]] = {}
    for variant, own in ways.items():
        for way in own:
            alike.setdefault(f"{variant}, {way.name.split()[0]}", {})[f"{variant}, {way.name}"] = way
    first = [_judged(on, model, next(iter(own.values()))) for model, own in alike.items()]
    seen, failed = on.accuracies(first, on.subject.choice)
    tried |= {model: _short(why) for model, why in failed.items()}
    drops = {model: seen[model].drop or 0.0 for model in alike if model in seen}
    tried |= {model: f"drop {drop:.4g} on validate" for model, drop in drops.items()}
    if not drops:
        return None
    least = max(on.max_drop, min(drops.values()))
    families = [alike[model] for model, drop in drops.items() if drop <= least]
    held = {name: way for family in families for name, way in family.items()}
    if len(held) == 1:
        return next(iter(held)), held
    contenders = [_timed(on, name, way) for name, way in held.items()]
    while contenders:  # the first of them is the base, and may not be one that fails
        try:
            found = measure(contenders, on.subject.feeds, rounds=FEW_ROUNDS, twin=False, log=on.log)
        except WorkError as error:
            tried[contenders.pop(0).name] = _short(error)
            continue
        tried |= {name: _short(why) for name, why in found.failed.items()}
        best = max(found.traces, key=lambda name: found.ratio(name).value)
        return best, next(family for family in families if best in family)
    return None


def ours(on: Field, file: Path, changes: list[str], name: str = OURS) -> list[Entry]:
    """The chosen candidates of a run, as a device loads them; that which it takes by itself comes first."""
    out = Path(on.task.out) / name.replace(" ", "")
    on.progress.say(name)
    begun = time.monotonic()
    try:
        found = call("rivals._entry:run", on.log, on.limit_s, recipe=str(file), changes=changes, out=str(out))
    except Error as error:
        return [Entry(name, wall_s=time.monotonic() - begun, reason=_short(error))]
    wall, entries = time.monotonic() - begun, []
    for place, (engine, target) in enumerate(found["engines"].items()):
        own = f"{name} on {target}" if place else name
        arguments = {"path": str(out / "bundle"), "engine": engine}
        opened = Contender(own, "runtime.worker:open_bundle", arguments, takes=read(out / "bundle").specs.inputs)
        took: dict[str, Any] = {"wall_s": wall, "memory": found["peak_memory_bytes"], "tried": found["closest"]}
        entries.append(Entry(own, opened, opened, engine, **took))
    return entries


def run(recipe: str, changes: list[str], out: str) -> dict[str, Any]:
    """For `runtime.contender.call`: `optimize run`; the engines of its bundle that it chose, with their targets."""
    from optimize import pipeline
    from rivals import peak_memory

    os.environ["OPTIMIZE_CACHE"] = str(Path(out) / "cache")  # with nothing done in it
    report = pipeline.run(Path(recipe), out=out, changes=changes, silent=True)
    engines = read(Path(out) / "bundle").engines if report.bundle else ()
    chosen = {one.name: one.target for one in engines if one.name in report.chosen.values()}
    if not chosen:
        raise WorkError("; ".join(report.why.values()))
    closest = {target: f"no candidate holds; closest {name}" for target, name in report.closest.items()}
    return {"engines": chosen, "closest": closest, "peak_memory_bytes": peak_memory()}


def _judged(on: Field, name: str, way: Way) -> Contender:
    return Contender(name, way.opener, way.arguments, decoding=on.subject.contender.decoding)


def _timed(on: Field, name: str, way: Way) -> Contender:
    return on.clocked(Contender(name, way.opener, {**way.arguments, **way.timed}))


def _short(reason: object) -> str:
    return " ".join(str(reason).split())[:300]


def _recorded(subject: Subject, work: Path, log: Path) -> str:
    """The original's answers on the samples to choose by, in an .npz."""
    found: list[Mapping[str, Any]] = []
    with Worker.start(replace(subject.contender, decoding=None), {}, log) as worker:
        for feeds, _ in subject.choice.batches(subject.evaluate_batch):
            size = len(next(iter(feeds.values())))
            outputs = worker.run(resized(feeds, subject.evaluate_batch) if subject.fixed else feeds)
            found.append({name: value[:size] for name, value in outputs.items()})
    place = work / "original.npz"
    _save(place, found)
    return str(place)


def _save(place: Path, parts: Sequence[Mapping[str, Any]]) -> None:
    """Into an .npz, each array with its parts one after another."""
    whole: dict[str, Any] = {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}
    np.savez(place, **whole)


def _accuracies(
    subject: Subject, original: Contender, contenders: Iterable[Contender], split: Any, max_drop: float, log: Path
) -> tuple[dict[str, Accuracy], dict[str, str]]:
    found = evaluate(
        [original, *contenders], split, subject.metric, subject.evaluate_batch,
        fixed=subject.fixed, log=log,
    )  # fmt: skip
    truth = found.statistics[original.name]
    seen = {one: accuracy(subject.metric, truth, rows, max_drop) for one, rows in found.statistics.items()}
    return seen | {original.name: accuracy(subject.metric, truth, None, 0.0)}, {**found.failed, **found.wrong}
