"""Make each candidate's ONNX file and engine, and see that the engine computes what its file says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from optimize import steps
from optimize.data import Splits
from optimize.models import Axes, OnnxModel, TorchModel
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.steps import Context, Settings
from optimize.verify import SAMPLES, judge, signal_to_noise, sized_feeds
from runtime import contender, engines
from runtime.contender import Contender, Worker
from runtime.engines import describe, relative_error
from runtime.errors import Error, StepError, WorkError
from runtime.tensors import Array

COLLAPSED_DB = 3.0  # below this the noise is nearly as large as the signal


@dataclass(frozen=True)
class Built:
    """A candidate with its files.

    Attributes:
        files: the engine's, role to path; empty where its target cannot be built here.
        contender: what runs it; for a target that cannot be built here, its ONNX file on ONNX Runtime.
        precision: what truly runs, in words.
        notes: what its steps said.
    """

    model: OnnxModel
    files: Mapping[str, Path]
    contender: Contender
    precision: str
    notes: tuple[str, ...] = field(default=())

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
        self._made: dict[tuple[str, ...], tuple[TorchModel | OnnxModel, tuple[str, ...]] | StepError] = {}

    def build(self, candidate: Candidate) -> Built | Lost:
        """One candidate.

        Raises:
            StepError: a step that only rewrites the model failed, and with it every candidate.
        """
        try:
            model, notes = self._steps(candidate)
        except StepError as error:
            if candidate.role != "steps":
                raise
            return Lost("failed", str(error))
        if candidate.why_not:
            return self._as_source(candidate, model, notes)
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
        return Built(model, paths, opened, describe(counts), notes)

    def _as_source(self, candidate: Candidate, model: OnnxModel, notes: tuple[str, ...]) -> Built:
        """No engine: its file on ONNX Runtime says how accurate it will be."""
        opened = _contender(candidate.name, "onnxruntime", {"model": str(model.path)}, model, {"fuse": False})
        return Built(model, {}, opened, "", notes)

    def _steps(self, candidate: Candidate) -> tuple[OnnxModel, tuple[str, ...]]:
        model, notes = self._start, tuple[str, ...]()
        done: list[str] = []
        key: tuple[str, ...] = ()
        for step in candidate.steps:
            name = steps.name_of(step)
            key += (name, step.model_dump_json(), repr(candidate.scheme) if step.scheme_matters else "")
            if key not in self._made:
                self._progress.say(f"{name} for {candidate.name}" if step.scheme_matters else name)
                try:
                    model, said = self._step(step, model, candidate)
                    self._made[key] = model, (*notes, *said)
                except Error as error:
                    after = f" after {', '.join(done)}" if done else ""
                    failed = StepError(f"the step '{name}'{after}: {error}")
                    self._made[key] = failed
                    raise failed from error
            made = self._made[key]
            if isinstance(made, StepError):
                raise made
            model, notes = made
            done.append(name)
        assert isinstance(model, OnnxModel)  # `steps.complete` saw to it
        return model, notes

    def _step(
        self, step: Settings, model: TorchModel | OnnxModel, candidate: Candidate
    ) -> tuple[TorchModel | OnnxModel, tuple[str, ...]]:
        folder = self._folder / "models" / f"{len(self._made)}-{steps.name_of(step)}"
        folder.mkdir(parents=True)  # a new one each time: what was made, or failed, is remembered
        context = Context(self._splits.calibrate, self._axes, candidate.scheme, folder)
        made = step(model, context)
        if not step.exact and isinstance(model, OnnxModel) and isinstance(made, OnnxModel):
            context.notes.append(self._loss(step, model, made))
        return made, tuple(context.notes)

    def _loss(self, step: Settings, before: OnnxModel, after: OnnxModel) -> str:
        feeds = self._feeds(before)
        got, wanted = judge(after).run(feeds), judge(before).run(feeds)
        for name, value in got.items():
            if not np.isfinite(value).all() and np.isfinite(wanted[name]).all():
                raise StepError(f"its result gives NaN or infinity in the output '{name}' on calibration data")
        ratio = signal_to_noise(got, wanted)
        collapsed = "; little of the signal is left" if ratio < COLLAPSED_DB else ""
        return f"{steps.name_of(step)}: signal to noise {ratio:.1f} dB against the model before{collapsed}"

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
