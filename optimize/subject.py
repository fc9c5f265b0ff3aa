"""What is optimized: the original, its data, its metric and the sizes it runs at, all checked before any work."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import targets
from optimize import automatic, calibration, metrics, padding, preprocessing, sources
from optimize import data as data_folder
from optimize.baked import Baked, differs, runs
from optimize.classes import aligned
from optimize.data import Batch, Split, Splits, resized
from optimize.evaluate import answers
from optimize.metrics import Metric, Rows
from optimize.models import Axes, OnnxModel, TorchModel, read_onnx
from optimize.origin import weights
from optimize.progress import Progress
from optimize.recipe import Recipe
from optimize.report import Data, SplitFacts
from optimize.sources import UNKNOWN, Meaning
from optimize.steps import Settings, name_of
from optimize.steps.fold_postprocessing import Step as FoldPostprocessing
from optimize.streams import frame_labels, unrolled
from runtime.contender import Contender, Worker
from runtime.decoding import Decoding
from runtime.errors import InputError, WorkError
from runtime.pre import PreSpec
from runtime.streaming import Streaming, check_states
from runtime.tensors import Array, Specs, TensorSpec

DAMAGED = 0.05  # the share of samples that may be left out because they cannot be read
EVALUATE_BATCH = 32  # samples a call where the model takes so many
QUICK = 500  # samples of validate, and of test, that a quick run judges by at most
FEW = 200  # samples of validate, below which a choice by them is luck, and calibrate's are looked at too


@dataclass(frozen=True)
class Subject:
    """A recipe, loaded and checked.

    Attributes:
        model: what the first step takes.
        inputs: in order.
        contender: the original in a process of its own.
        calls: the splits as steps look at them, a call a sample; of a model with states, the steps of its recordings
            with the original's own states. Its test is never looked at.
        batch: at which latency is measured.
        evaluate_batch: at which accuracy is.
        fixed: the batch is baked into the model.
        own_labels: the data has the labels that the metric wants; else the original's answers stand for them.
        choice: by which samples is chosen: validate, and where that is small, calibrate too, if no step trains on it.
        choice_samples: how many.
        test_samples: how many of test, which of a quick run is a part.
        feeds: the arrays of each timed call: the first samples of validate.
        notes: what a reader of the report should know.
        pre: what makes the inputs of raw samples.
        plans: the lists of steps to try, each complete.
        classes: how many kinds of labels there are; None where they are no whole numbers.
    """

    model: TorchModel | OnnxModel
    inputs: tuple[TensorSpec, ...]
    contender: Contender
    splits: Splits
    calls: Splits
    facts: Data
    metric: Metric
    axes: Axes
    batch: int
    evaluate_batch: int
    fixed: bool
    own_labels: bool
    choice: Split
    choice_samples: int
    test_samples: int
    feeds: dict[str, Array]
    notes: tuple[str, ...]
    pre: tuple[PreSpec, ...] = ()
    plans: tuple[tuple[Settings, ...], ...] = ()
    classes: int | None = None

    @property
    def states(self) -> Mapping[str, str]:
        """Input to the output that gives what the next call takes; nothing for a model without states."""
        return self.contender.streaming.states if self.contender.streaming else {}


@dataclass(frozen=True)
class Material:
    """Data and metric, read and checked.

    Attributes:
        own_labels: the data has the labels that the metric wants; else the original's answers stand for them.
        facts: of each split, and the smallest and largest label.
        pre: what makes the inputs of raw samples.
    """

    splits: Splits
    facts: dict[str, data_folder.Facts]
    metric: Metric
    own_labels: bool
    notes: tuple[str, ...]
    pre: tuple[PreSpec, ...] = ()
    axes: Axes = field(default_factory=dict)

    def try_out(
        self, original: Contender, inputs: Sequence[TensorSpec], split: Split, batch: int, log: Path | None, least: int
    ) -> list[str]:
        """Run the original on its first samples, the metric on its answers, and on each split's extreme labels.

        Returns:
            What a reader of the report should know: where padding changes its answers.

        Raises:
            Baked: it does not answer a batch as it does `least` samples, the smallest batch.
            InputError: the model does not run on the data, gives NaN, or the metric does not fit.
        """
        feeds, labels = split.take(batch)
        size = len(next(iter(feeds.values())))
        try:
            with Worker.start(original, resized(feeds, batch), log) as worker:
                outputs = answers(original, worker.outputs, size, batch)
                if least < batch and (odd := differs(worker, original, resized(feeds, batch), least)):
                    raise Baked(odd)
                single = not (inputs and inputs[0].shape and isinstance(inputs[0].shape[0], int))
                notes = padding.check(worker, self.pre, split, inputs) if single else []
        except WorkError as error:
            if least < batch and runs(original, resized(feeds, least), log):
                raise Baked(f"it runs with {least}, not with {batch}: {error}") from error
            raise InputError(f"the original does not run on the data: {error}") from error
        first = metrics.first(outputs)
        if not np.isfinite(first.astype(np.float64)).all():
            raise InputError("the original itself gives NaN or infinity on the data.")
        if original.streaming and labels is not None:
            labels = frame_labels(labels, size, len(first), split.name)
        labels = self.metric.own(outputs, feeds) if self.metric.own else labels
        assert labels is not None
        value = self.metric.finish(Rows.of(self.metric.update(outputs, labels)).values)
        if np.isinf(value):  # NaN may only mean that so few samples have none; on all of them it is refused
            raise InputError(f"the metric '{self.metric.name}' gives {value} on the original's first answers.")
        if not self.own_labels or labels.ndim != 1 or ":" in self.metric.name:
            return notes
        for name, facts in self.facts.items():
            if facts.labels is not None:
                twice = {key: np.repeat(one[:1], 2, axis=0) for key, one in outputs.items()}
                try:
                    self.metric.update(twice, facts.labels)
                except InputError as error:
                    raise InputError(f"the split '{name}': {error}") from error
        return notes


def read_data(
    place: str, source: str | None, metric: str | None, better: str | None, given: tuple[TensorSpec, ...],
    progress: Progress, pre: Sequence[PreSpec] = (), damaged: float = DAMAGED, streaming: Streaming | None = None,
    meaning: Meaning = UNKNOWN,
) -> tuple[tuple[TensorSpec, ...], Material]:  # fmt: skip
    """Load the data for a model's inputs, or infer the inputs from the data, check it all, and pick the metric.

    Data of a model with states (`streaming`) are recordings, which have none. `meaning` is that of the model's answers.

    Raises:
        InputError: something is missing, does not fit, or holds NaN.
    """
    progress.say("the data")
    loaded = aligned(data_folder.load(source or data_folder.detect(place), place), meaning.classes)
    read = preprocessing.read(loaded, pre, given)
    try:
        inputs = given or data_folder.infer_inputs(read.splits.calibrate.take(1))
        splits = data_folder.prepare(read.splits, streaming.given if streaming else inputs)
        splits = splits if read.axes or streaming else splits.held()
        held = streaming.recorded(splits.calibrate.take(1)[0]) if streaming else inputs
        facts = {}
        read.losses.lost = 0  # from here on each sample is read once
        for split in splits:
            progress.say(f"the data: {split.name}")
            facts[split.name] = data_folder.examine(split, held)
    except InputError as error:
        if read.losses.reasons and not read.losses.read:
            raise InputError(
                f"no sample of {place} can be read; the first: {next(iter(read.losses.reasons))}"
            ) from error
        raise
    lost = read.losses.check(sum(one.samples for one in facts.values()), damaged)
    labelled = all(one.labelled for one in facts.values())
    notes = (*splits.notes, *read.notes, *lost, *read.pace(inputs))
    if metric is None:
        metric, reason = _usual(facts.values(), read.usual, meaning)
        notes = (*notes, f"no metric was named; '{metric}' was taken, {reason}")
    judge = metrics.get(metric, better)
    if not labelled and not judge.own:
        raise InputError(
            f"the metric '{metric}' needs labels, and the data has none: leave it out for {meaning.agreement}."
        )
    judge = metrics.of_texts(judge, meaning.decoder) if meaning.decoder else judge
    return inputs, Material(splits, facts, judge, not judge.own, notes, read.specs, read.axes)


def _usual(facts: Collection[data_folder.Facts], read: tuple[str, str] | None, meaning: Meaning) -> tuple[str, str]:
    """The metric that such labels are for, and why; `read` where they were read as what only one is for."""
    if not all(one.labelled for one in facts):
        return meaning.agreement, f"without labels: {metrics.get(meaning.agreement).means}"
    if read:
        return read
    if all(one.text for one in facts):
        return "word_error_rate", "for texts"
    if not all(one.integer for one in facts):
        return "mse", "for real-number labels"
    return (
        ("miou", "for maps of classes") if all(one.maps for one in facts) else ("accuracy", "for whole-number labels")
    )


def prepare(recipe: Recipe, progress: Progress, log: Path | None, every_target: bool = True) -> Subject:
    """Load the model and the data, and run the one on a few samples of the other.

    Raises:
        InputError: something is missing, does not fit, holds NaN, or the one does not run on the other; or, where it
            must run on `every_target`, it has trees or text and a target has none.
    """
    progress.say("the model")
    spec = recipe.model_spec()
    original = sources.load(spec)
    if every_target and isinstance(original.model, Path):
        _refuse_targets(original.model, recipe)
    place = recipe.data_place()
    streaming = _streaming(recipe, original)
    inputs, material = read_data(
        place, recipe.data.source, recipe.metric(), recipe.data.better, original.inputs, progress,
        preprocessing.merged(recipe.preprocessing(), original.pre), recipe.data.damaged, streaming, original.meaning,
    )  # fmt: skip
    if spec.source == "torch" and not isinstance(original.model, Path) and not spec.weights and original.file is None:
        _same_each_time(spec, TorchModel(original.model, inputs))
    few = 0 if streaming else calibration.FEW  # a recording has many steps
    odd = calibration.check(material.facts, few) if recipe.data.check else []
    contender = replace(spec, inputs=inputs).contender()
    plans = automatic.lists(recipe, original.model, material.facts)
    planned = [step for plan in plans for step in plan]
    axes = _axes(recipe, inputs, material.axes)
    first = inputs[0].shape[0] if inputs[0].shape else 1
    if isinstance(first, int):
        batch = evaluate_batch = first
    else:
        limits = axes[first]
        batch = limits["max" if recipe.constraints.objective == "throughput" else "best"]
        evaluate_batch = max(limits["min"], min(limits["max"], EVALUATE_BATCH))
        if streaming:  # recordings are of different lengths
            evaluate_batch = limits["min"]

    progress.say("the original's first answers")
    for step in planned:
        if isinstance(step, FoldPostprocessing):
            contender = replace(contender, decoding=_decoding(step, contender, material, evaluate_batch, log))
    least = evaluate_batch if isinstance(first, int) else axes[first]["min"]
    padded = material.try_out(contender, inputs, material.splits.validate, evaluate_batch, log, least)
    metric = material.metric
    choice, samples, told = _choice(any(step.trains for step in planned), material)
    test, tested = material.splits.test, material.facts["test"].samples
    if recipe.search.quick and max(samples, tested) > QUICK:
        choice, test = choice.part(QUICK, samples), test.part(QUICK, tested)
        samples, tested = min(QUICK, samples), min(QUICK, tested)
        told.append(f"a quick run: judged by {samples:,} samples of validate and {tested:,} of test, drawn by a seed")
    calls = material.splits
    if streaming:
        progress.say("the states of the original")
        steps = [unrolled(contender, split, log) for split in (calls.calibrate, calls.validate)]
        calls = Splits(steps[0], steps[1], calls.test)
        seen = sum(1 for _ in steps[0].passes())
        told.append(f"steps look at {seen} steps of calibrate's recordings, with the original's own states")
    return Subject(
        model=read_onnx(original.model)
        if isinstance(original.model, Path)
        else TorchModel(original.model, inputs, file=original.file),
        inputs=inputs,
        contender=contender,
        splits=replace(material.splits, test=test),
        calls=calls,
        facts=Data(
            place=str(recipe.data.path or recipe.data.entry),
            labels=material.own_labels,
            metric=metric.name,
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            splits={key: SplitFacts(samples=one.samples, sha256=one.sha256) for key, one in material.facts.items()},
        ),
        metric=metric,
        axes=axes,
        batch=batch,
        evaluate_batch=evaluate_batch,
        fixed=isinstance(first, int),
        own_labels=material.own_labels,
        choice=choice,
        choice_samples=samples,
        test_samples=tested,
        feeds=resized(padding.at_best(calls.validate, batch, inputs, material.axes), batch, calls.validate.axes),
        notes=(*original.notes, *material.notes, *odd, *told, *padded),
        pre=material.pre,
        plans=plans,
        classes=max(
            (int(one.labels[1]) + 1 for one in material.facts.values() if one.labels is not None), default=None
        ),
    )


def _same_each_time(spec: sources.ModelSpec, model: TorchModel) -> None:
    """Raise InputError where the user's code draws a network's weights: each process would have one of its own."""
    again = sources.load(spec).model
    assert not isinstance(again, Path)  # it gave a module before
    if weights(model) != weights(TorchModel(again, model.inputs)):
        raise InputError(
            f"{spec.place} gives other weights each time it is called, as an untrained network does: name the trained "
            "ones (--weights FILE; [model] weights in a recipe), or load them there."
        )


def _streaming(recipe: Recipe, original: sources.Original) -> Streaming | None:
    """The model's states, checked; None where it has none.

    Raises:
        InputError: they cannot be, or a step is asked for that does not go with them.
    """
    states = recipe.model.states
    if states and not original.inputs:
        raise InputError("[model.states] needs [model.inputs] of the states and the others: the data has no states.")
    outputs = read_onnx(original.model).specs.outputs if isinstance(original.model, Path) else ()
    streaming = check_states(states, Specs(original.inputs, outputs))
    if streaming is None:
        return None
    if original.inputs[0].name in states:
        raise InputError(f"the state '{original.inputs[0].name}' is the first input; put it behind the others.")
    apart = [spec.name for spec in original.inputs if spec.name in states and streaming.batch_axis(spec) != 0]
    for step in recipe.all_steps():
        if name_of(step).startswith("fold_") or (step.trains and apart):
            why = f"samples do not lie along the first axis of '{apart[0]}'" if apart else "samples are recordings"
            raise InputError(f"the step '{name_of(step)}' does not go with [model.states]: {why}.")
    return streaming


def _refuse_targets(path: Path, recipe: Recipe) -> None:
    """Raise InputError where a target has not the ops of trees that a model's file has, or no text."""
    import onnx

    graph, specs = onnx.load(path, load_external_data=False).graph, read_onnx(path).specs
    trees = sorted({node.op_type for node in graph.node if node.domain == "ai.onnx.ml"})
    text = [f"the text '{spec.name}'" for spec in (*specs.inputs, *specs.outputs) if spec.dtype == "str"]
    for found, what in ((trees, "trees"), (text, "text")):
        foreign = [name for name in recipe.targets if found and not getattr(targets.get(name), what)]
        if foreign:
            able = ", ".join(name for name in targets.names() if getattr(targets.get(name), what))
            raise InputError(
                f"the model has {', '.join(found)}, which of the targets {able} alone can run, "
                f"and not {', '.join(foreign)}: leave that target out."
            )


def _decoding(
    step: FoldPostprocessing, original: Contender, material: Material, batch: int, log: Path | None
) -> Decoding:
    """What becomes of the original's outputs, so that they can be compared with the candidates'."""
    feeds = resized(material.splits.validate.take(batch)[0], batch)
    try:
        with Worker.start(original, feeds, log) as worker:
            outputs = worker.outputs
        specs = (TensorSpec(name, value.dtype.name, value.shape) for name, value in outputs.items())
        return step.decoding(tuple(specs))
    except WorkError as error:
        raise InputError(f"the step 'fold_postprocessing': {error}") from error


def _choice(trained: bool, material: Material) -> tuple[Split, int, list[str]]:
    """The samples to choose by, how many they are, and what a reader should know of them."""
    splits, own = material.splits, material.facts["validate"].samples
    more = min(FEW - own, material.facts["calibrate"].samples)
    if more <= 0 or trained:
        return splits.validate, own, []

    def passes() -> Iterator[Batch]:
        yield from splits.validate.passes()
        left = more
        for feeds, labels in splits.calibrate.passes():
            kept = {name: value[:left] for name, value in feeds.items()}
            yield kept, None if labels is None else labels[:left]
            left -= len(next(iter(kept.values())))
            if left <= 0:
                return

    said = (
        f"validate has {own} samples, which tell little: the choice went by {more} of calibrate too, on which no step "
        "trained"
    )
    return replace(splits.validate, passes=passes), own + more, [said]


def _axes(recipe: Recipe, inputs: tuple[TensorSpec, ...], padded: Axes) -> dict[str, dict[str, int]]:
    """The limits of every named axis: the recipe's, else those of what is padded to, else 1, 1, 16."""
    named = dict.fromkeys(size for spec in inputs for size in spec.shape if isinstance(size, str))
    asked = {name: axis.model_dump() for name, axis in recipe.model.axes.items()}
    return {name: asked.get(name) or dict(padded.get(name) or {"min": 1, "best": 1, "max": 16}) for name in named}
