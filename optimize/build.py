"""Make each candidate's ONNX file and engine, and see that the engine computes what its file says."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optimize import steps
from optimize.data import Splits
from optimize.models import Axes, OnnxModel, TorchModel, measures
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.report import Made
from optimize.steps import Context, Settings
from optimize.verify import SAMPLES, judge, signal_to_noise, sized_feeds
from runtime import contender, engines
from runtime.contender import Contender, Worker
from runtime.engines import describe, relative_error
from runtime.errors import Error, StepError, WorkError
from runtime.tensors import Array

COLLAPSED_DB = 3.0  # below this the noise is nearly as large as the signal
EXACT_DB = 200.0  # for results that are equal, since JSON has no infinity


@dataclass(frozen=True)
class Built:
    """A candidate with its files.

    Attributes:
        files: the engine's, role to path; empty where its target cannot be built here.
        contender: what runs it; for a target that cannot be built here, its ONNX file on ONNX Runtime.
        precision: what truly runs, in words.
        made: what each step did.
    """

    model: OnnxModel
    files: Mapping[str, Path]
    contender: Contender
    precision: str
    made: tuple[Made, ...] = field(default=())

    @property
    def size_bytes(self) -> int:
        """Of the engine's files; of the ONNX file where there is no engine."""
        parts = (self.files or engines.onnx_files(self.model.path)).values()
        return sum(part.stat().st_size for part in parts)


@dataclass(frozen=True)
class Lost:
    """A candidate that fell out: `failed`, or `wrong` where its engine answers otherwise than its file."""

    status: str
    reason: str


class Builder:
    """Makes models by steps, sharing what candidates have in common, and compiles them in processes of their own."""

    def __init__(
        self, start: TorchModel | OnnxModel, splits: Splits, axes: Axes, folder: Path, log: Path, progress: Progress
    ) -> None:
        self._start = start
        self._splits = splits
        self._axes = axes
        self._folder = folder
        self._log = log
        self._progress = progress
        self._made: dict[tuple[str, ...], tuple[TorchModel | OnnxModel, tuple[Made, ...]] | StepError] = {}

    def build(self, candidate: Candidate) -> Built | Lost:
        """One candidate.

        Raises:
            StepError: a step that only rewrites the model failed, and with it every candidate.
        """
        try:
            model, made = self._steps(candidate)
        except StepError as error:
            if candidate.role != "steps":
                raise
            return Lost("failed", str(error))
        if candidate.why_not:
            return self._as_source(candidate, model, made)
        self._progress.say(f"compile {candidate.name}")
        out = self._folder / "engines" / candidate.name
        engine, options = candidate.target.engine, dict(candidate.options)
        try:
            files = contender.call(
                "runtime.worker:compile_engine", self._log,
                engine=engine, onnx=str(model.path), out=str(out), options=options,
            )  # fmt: skip
            opened = _contender(candidate.name, engine, files, model, options)
            counts, answer = self._answer(opened, model)
        except WorkError as error:
            return Lost("failed", str(error))
        formats = [engines.get(engine).TOLERANCE.get(name, 0.0) for name in counts]
        if lost := _disagrees(answer, judge(model).run(self._feeds(model)), max(formats, default=0.0) or 1e-3):
            return lost
        paths = {role: Path(file) for role, file in files.items()}
        return Built(model, paths, opened, describe(counts), made)

    def _as_source(self, candidate: Candidate, model: OnnxModel, made: tuple[Made, ...]) -> Built:
        """No engine: its file on ONNX Runtime says how accurate it will be."""
        opened = _contender(candidate.name, "onnxruntime", {"model": str(model.path)}, model, {"fuse": False})
        return Built(model, {}, opened, "", made)

    def _steps(self, candidate: Candidate) -> tuple[OnnxModel, tuple[Made, ...]]:
        model, history = self._start, tuple[Made, ...]()
        key: tuple[str, ...] = ()
        for step in candidate.steps:
            name = steps.name_of(step)
            key += (name, step.model_dump_json(), repr(candidate.scheme) if step.scheme_matters else "")
            if key not in self._made:
                self._progress.say(f"{name} for {candidate.name}" if step.scheme_matters else name)
                try:
                    model, made = self._step(step, model, candidate)
                    self._made[key] = model, (*history, made)
                except Error as error:
                    after = f" after {', '.join(one.use for one in history)}" if history else ""
                    failed = StepError(f"the step '{name}'{after}: {error}")
                    self._made[key] = failed
                    raise failed from error
            found = self._made[key]
            if isinstance(found, StepError):
                raise found
            model, history = found
        assert isinstance(model, OnnxModel)  # `steps.complete` saw to it
        return model, history

    def _step(
        self, step: Settings, model: TorchModel | OnnxModel, candidate: Candidate
    ) -> tuple[TorchModel | OnnxModel, Made]:
        begun = time.monotonic()
        folder = self._folder / "models" / f"{len(self._made)}-{steps.name_of(step)}"
        folder.mkdir(parents=True)  # a new one each time: what was made, or failed, is remembered
        context = Context(self._splits.calibrate, self._axes, candidate.scheme, folder)
        result = step(model, context)
        ratio = None
        if not step.exact and isinstance(model, OnnxModel) and isinstance(result, OnnxModel):
            ratio = self._signal_to_noise(model, result)
            if ratio < COLLAPSED_DB:
                context.notes.append(f"{steps.name_of(step)}: little of the signal is left ({ratio:.1f} dB)")
        return result, Made(
            use=steps.name_of(step),
            seconds=time.monotonic() - begun,
            **measures(result),
            signal_to_noise_db=ratio,
            notes=context.notes,
        )

    def _signal_to_noise(self, before: OnnxModel, after: OnnxModel) -> float:
        feeds = self._feeds(before)
        got, wanted = judge(after).run(feeds), judge(before).run(feeds)
        for name, value in got.items():
            if not np.isfinite(value).all() and np.isfinite(wanted[name]).all():
                raise StepError(f"its result gives NaN or infinity in the output '{name}' on calibration data")
        return min(signal_to_noise(got, wanted), EXACT_DB)

    def _answer(self, opened: Contender, model: OnnxModel) -> tuple[dict[str, int], Mapping[str, Array]]:
        worker = Worker.start(opened, self._feeds(model), self._log)
        with worker:
            return worker.precision(), worker.outputs

    def _feeds(self, model: OnnxModel) -> dict[str, Array]:
        return sized_feeds(self._splits.calibrate, model.specs.inputs, batch_of(model, self._axes, SAMPLES))


def batch_of(model: OnnxModel, axes: Axes, wanted: int) -> int:
    """The batch nearest to `wanted` that a model takes."""
    shape: Sequence[int | str] = model.specs.inputs[0].shape
    first = shape[0] if shape else 1
    if isinstance(first, int):
        return first
    limits = axes.get(first, {})
    return min(max(wanted, limits.get("min", 1)), limits.get("max", wanted))


def _contender(
    name: str, engine: str, files: Mapping[str, str], model: OnnxModel, options: Mapping[str, object]
) -> Contender:
    arguments = {"engine": engine, "files": dict(files), "specs": model.specs.to_json(), "options": dict(options)}
    return Contender(name, "runtime.worker:open_engine", arguments)


def _disagrees(got: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: float) -> Lost | None:
    error, name = relative_error(got, wanted)
    if error <= tolerance:
        return None
    values = got.get(name, np.empty(0))
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return Lost("wrong", f"its output '{name}' has NaN or infinity where its ONNX file has none")
    return Lost("wrong", f"its output '{name}' differs from its own ONNX file by {error:.2g} (allowed {tolerance:.2g})")
