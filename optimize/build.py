"""Make each candidate's ONNX file and engine, and see that the engine computes what its file says."""

import contextlib
import copy
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from optimize import origin, processes, pruning, reproduce, steps
from optimize.models import Axes, OnnxModel, TorchModel, framed, measures, read_onnx
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.report import Made
from optimize.steps import Context, Settings
from optimize.subject import Subject
from optimize.tables import Limits
from optimize.verify import SAMPLES, Interpreted, interpreter, signal_to_noise, sized_feeds
from runtime import contender, engines, host
from runtime.cache import Cache, address, digest
from runtime.contender import Contender, Worker
from runtime.decoding import Decoding
from runtime.engines import describe, relative_error
from runtime.errors import Error, NothingToDo, StepError, WorkError
from runtime.streaming import Streaming
from runtime.tensors import Array
from targets import Scheme

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
        body: the model before its outputs are decoded, in which layers are compared.
    """

    model: OnnxModel
    files: Mapping[str, Path]
    contender: Contender
    precision: str
    made: tuple[Made, ...]
    body: OnnxModel

    @property
    def size_bytes(self) -> int:
        """Of the engine's files; of the ONNX file where there is no engine."""
        parts = (self.files or engines.onnx_files(self.model.path)).values()
        return sum(part.stat().st_size for part in parts)


@dataclass(frozen=True)
class Lost:
    """A candidate that fell out: `failed`, `wrong` (its engine answers otherwise than its file), or `dropped`."""

    status: str
    reason: str


@dataclass(frozen=True)
class _Task:
    """One step to do.

    Attributes:
        unpruned: the latest model of which nothing was removed yet.
        unrounded: the latest ONNX model before a step that rounds.
    """

    step: Settings
    model: TorchModel | OnnxModel
    unpruned: TorchModel | OnnxModel
    scheme: Scheme
    unrounded: OnnxModel | None


class Builder:
    """Makes models by steps, sharing what candidates have in common, and compiles them in processes of their own.

    Args:
        subject: what is optimized, with its data.
        cache: where results of steps are kept.
        versions: of all that takes part; another version is another result.
        failed: for what a candidate failed on.
        log: where vendors' chatter goes.
        progress: told what is being done.
        limits: of compiling and the first answer.
        threads: of steps on torch models, whose sums may be rounded otherwise with more; all cores by default.
    """

    def __init__(
        self, subject: Subject, cache: Cache, versions: Mapping[str, str], failed: Path, log: Path,
        progress: Progress, limits: Limits | None = None, threads: int | None = None,
    ) -> None:  # fmt: skip
        self._start = subject.model
        self._splits = subject.calls
        self._states = subject.states
        self._axes = subject.axes
        self._cache = cache
        self._common = {
            "data": {name: facts.sha256 for name, facts in subject.facts.splits.items() if name != "test"},
            "axes": subject.axes,
            "inputs": [spec.to_json() for spec in subject.inputs],
            "states": dict(subject.states),
            "versions": dict(versions),
        }
        self._host = host.facts().to_json()
        self.threads = threads or host.cores()
        self._root = origin.origin(subject.model)
        self._failed = failed
        self._log = log
        limits = limits or Limits()
        self._limits: dict[str, Any] = {
            "limit_s": limits.seconds,
            "memory_bytes": int((limits.memory_gib or 0) * 2**30),
        }
        self._progress = progress
        self._interpreted = Interpreted(self._feeds)
        self._made: dict[str, tuple[TorchModel | OnnxModel, Made] | StepError] = {}

    def train(self, candidates: Sequence[Candidate]) -> None:
        """Do the steps on torch models, with every process of `accelerate launch`; `build` then finds them made."""
        for candidate in candidates:
            with contextlib.suppress(StepError):  # `build` says it
                self.model(replace(candidate, steps=tuple(takewhile(_on_torch, candidate.steps))))
        processes.part()

    def build(self, candidate: Candidate) -> Built | Lost:
        """One candidate.

        Raises:
            StepError: a step that only rewrites the model failed, and with it every candidate.
        """
        try:
            model, made = self.model(candidate)
            body = self.model(replace(candidate, steps=tuple(step for step in candidate.steps if not step.last)))[0]
            assert isinstance(model, OnnxModel) and isinstance(body, OnnxModel)  # `steps.complete` saw to it
        except StepError as error:
            if candidate.role != "steps":
                raise
            return Lost("dropped" if isinstance(error, NothingToDo) else "failed", str(error))
        if candidate.why_not:
            return self._as_source(candidate, model, made, body)
        self._progress.say(f"compile {candidate.name}")
        try:
            built = self._compile(candidate, model, made, body)
        except WorkError as error:
            built = Lost("failed", str(error))
        if isinstance(built, Lost):
            script = self.keep(candidate, model, built.status, built.reason)
            return replace(built, reason=f"{built.reason} (python {script} shows it again)")
        return built

    def keep(self, candidate: Candidate, model: OnnxModel, status: str, reason: str) -> Path:
        """What shows again that a candidate failed, or is wrong: a script, beside what it needs."""
        return reproduce.keep(self._failed, candidate, model, status, reason, self._feeds(model))

    def unrounded(self, candidate: Candidate) -> OnnxModel | None:
        """A candidate's graph before the first step that rounds it; None where none does."""
        exact = tuple(takewhile(lambda step: _on_torch(step) or step.exact, candidate.steps))
        model = self.model(replace(candidate, steps=exact))[0] if len(exact) < len(candidate.steps) else None
        return model if isinstance(model, OnnxModel) else None

    def address(self, **parts: Any) -> str:
        """In the cache, of what was found out here about this model with this data."""
        return address(**parts, root=self._root, host=self._host, **self._common)

    def _compile(self, candidate: Candidate, model: OnnxModel, made: tuple[Made, ...], body: OnnxModel) -> Built | Lost:
        engine, options = candidate.target.engine, self._options(candidate, model)
        files = self._engine(engine, model, options, candidate.anew)
        opened = _contender(candidate.name, engine, files, model, options, self._states)
        with Worker.start(opened, self._feeds(model), self._log, **self._limits) as worker:
            counts, answer = worker.precision(), worker.outputs
        # an engine may compute in float what the file rounds between: a level is a level there too
        names = {*counts, "int8"} if model.rounds else set(counts)
        formats = [engines.get(engine).TOLERANCE.get(name, 0.0) for name in names]
        wanted, decoding = self._interpreted(model), model.specs.decoding
        if lost := _disagrees(answer, wanted, max(formats, default=0.0) or 1e-3, decoding):
            return lost
        return Built(model, {role: Path(file) for role, file in files.items()}, opened, describe(counts), made, body)

    def _engine(self, engine: str, model: OnnxModel, options: Mapping[str, Any], anew: bool) -> dict[str, str]:
        """The compiled files, role to path, out of the cache or made by a process of their own.

        Another processor, GPU or number of cores is another engine.
        """
        place = address(
            compiled=engine,
            model=digest(list(engines.onnx_files(model.path).values())),
            options=dict(options),
            host=self._host,
            versions=self._common["versions"],
        )
        if anew:
            self._cache.forget(place)
        with self._cache.making(place) as room:
            entry = self._cache.get(place)
            if entry is None:
                out = room / "result"
                shutil.rmtree(out, ignore_errors=True)
                files = contender.call(
                    "runtime.worker:compile_engine", self._log, **self._limits, modules=engines.get(engine).FORKABLE,
                    engine=engine, onnx=str(model.path), out=str(out), options=options,
                )  # fmt: skip
                roles = {role: Path(file).relative_to(out).as_posix() for role, file in files.items()}
                entry = self._cache.put(place, out, {"use": f"compile for {engine}", "roles": roles})
            return {role: str(entry.folder / file) for role, file in entry.facts["roles"].items()}

    def _options(self, candidate: Candidate, model: OnnxModel) -> dict[str, Any]:
        """The candidate's, and the sizes that the recipe's axes may take, for engines that are built for a range."""
        sizes = candidate.target.profiles(model.specs, self._axes) if candidate.target.profiles else None
        return {**candidate.options, **({"profiles": sizes} if sizes else {})}

    def _as_source(self, candidate: Candidate, model: OnnxModel, made: tuple[Made, ...], body: OnnxModel) -> Built:
        """No engine: its file, interpreted, says how accurate it will be."""
        engine, options = interpreter(model)
        opened = _contender(candidate.name, engine, {"model": str(model.path)}, model, options, self._states)
        return Built(model, {}, opened, "", made, body)

    def model(self, candidate: Candidate) -> tuple[TorchModel | OnnxModel, tuple[Made, ...]]:
        """What a candidate's steps make, whatever its kind, and what each did; raises StepError."""
        model, history, place = self._start, tuple[Made, ...](), self._root
        unpruned, unrounded, rounded = model, model if isinstance(model, OnnxModel) else None, False
        for step in candidate.steps:
            name = steps.name_of(step)
            scheme = step.heeded(candidate.scheme, model.ops if isinstance(model, OnnxModel) else None)
            place = address(
                given=place,
                step=f"{type(step).__module__}.{type(step).__qualname__}",
                settings=step.model_dump(mode="json"),
                code=origin.code(step),
                scheme=asdict(scheme) if step.heeds else None,
                threads=self.threads if isinstance(model, TorchModel) else None,
                **self._common,
            )
            if place not in self._made:
                if candidate.anew and not step.exact:
                    self._cache.forget(place)
                self._progress.say(f"{name} for {candidate.name}" if step.heeds else name)
                try:
                    self._made[place] = self._kept(place, _Task(step, model, unpruned, scheme, unrounded))
                except Error as error:
                    after = f" after {', '.join(one.use for one in history)}" if history else ""
                    kind = NothingToDo if isinstance(error, NothingToDo) else StepError
                    failed = kind(f"the step '{name}'{after}: {error}")
                    self._made[place] = failed
                    raise failed from error
            found = self._made[place]
            if isinstance(found, StepError):
                raise found
            if isinstance(model, OnnxModel) and isinstance(found[0], OnnxModel):
                found = framed(found[0], model), found[1]
            model, history = found[0], (*history, found[1])
            if isinstance(model, TorchModel) and not model.history and not model.masks:
                unpruned = model
            rounded = rounded or not (step.exact or _on_torch(step))
            if isinstance(model, OnnxModel) and not rounded:
                unrounded = model
        return model, history

    def _kept(self, place: str, task: _Task) -> tuple[TorchModel | OnnxModel, Made]:
        """A step's result out of the cache, made and put there first where it is not in it."""
        if not processes.first():
            return self._helped(task), Made(use=steps.name_of(task.step))
        with self._cache.making(place) as room:
            entry = self._cache.get(place)
            known = processes.shared(entry is not None)
            if entry is None:
                try:
                    result, made = self._step(task, room)
                except Error:
                    processes.shared(None)
                    raise
                shutil.rmtree(room / "result", ignore_errors=True)  # of a run that was killed just here
                self._store(result, room / "result")
                entry = self._cache.put(place, room / "result", made.model_dump(mode="json"))
            made = Made.model_validate({**entry.facts, "cached": known})
            if not _on_torch(task.step):
                return read_onnx(next(entry.folder.glob("*.onnx"))), made
            if processes.count() > 1:
                processes.shared({file.name: file.read_bytes() for file in entry.folder.iterdir()})
            return self._load(entry.folder), made

    def _helped(self, task: _Task) -> TorchModel:
        """What a later process does for a step: its share of the work; the result is the first one's."""
        with tempfile.TemporaryDirectory() as folder:
            if not processes.shared(None):
                with contextlib.suppress(Error):  # the first one says it
                    self._step(task, Path(folder))
            files = processes.shared(None)
            if files is None:
                raise StepError("it failed in the first process")
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            return self._load(Path(folder))

    def _load(self, folder: Path) -> TorchModel:
        assert isinstance(self._start, TorchModel)  # no other has steps on torch
        return pruning.load(folder, copy.deepcopy(self._start.module))

    def _store(self, result: TorchModel | OnnxModel, folder: Path) -> None:
        """Put a result's files into a folder; an ONNX file keeps its name, by which it finds its external data."""
        if isinstance(result, TorchModel):
            pruning.save(result, folder, self._axes)
            return
        folder.mkdir()
        for part in engines.onnx_files(result.path).values():
            shutil.copyfile(part, folder / part.name)

    def _step(self, task: _Task, folder: Path) -> tuple[TorchModel | OnnxModel, Made]:
        begun, step, model = time.monotonic(), task.step, task.model
        if isinstance(model, TorchModel):
            import torch

            torch.set_num_threads(self.threads)
        context = Context(
            self._splits.calibrate, self._axes, task.scheme, folder,
            original=task.unpruned if isinstance(task.unpruned, TorchModel) else None,
            unrounded=task.unrounded,
            validate=self._splits.validate, progress=self._progress.count,
        )  # fmt: skip
        result = step(model, context)
        ratio = None
        if not step.exact and isinstance(model, OnnxModel) and isinstance(result, OnnxModel):
            ratio = self._signal_to_noise(model, result)
            if ratio is not None and ratio < COLLAPSED_DB:
                context.notes.append(f"{steps.name_of(step)}: little of the signal is left ({ratio:.1f} dB)")
        done = {"use": steps.name_of(step), "seconds": time.monotonic() - begun, "signal_to_noise_db": ratio}
        return result, Made.model_validate({**done, **measures(result, self._axes), "notes": context.notes})

    def _signal_to_noise(self, before: OnnxModel, after: OnnxModel) -> float | None:
        """In dB; None where an output has another size, another number of boxes say."""
        got, wanted = self._interpreted(after), self._interpreted(before)
        for name, value in got.items():
            if not np.isfinite(value).all() and np.isfinite(wanted[name]).all():
                raise StepError(f"its result gives NaN or infinity in the output '{name}' on calibration data")
        alike = all(got[name].shape == value.shape for name, value in wanted.items())
        return min(signal_to_noise(got, wanted), EXACT_DB) if alike else None

    def _feeds(self, model: OnnxModel) -> dict[str, Array]:
        return sized_feeds(self._splits.calibrate, model.specs.inputs, batch_of(model, self._axes, SAMPLES))


def _on_torch(step: Settings) -> bool:
    return steps.gives(step) is TorchModel


def batch_of(model: OnnxModel, axes: Axes, wanted: int) -> int:
    """The batch nearest to `wanted` that a model takes."""
    shape: Sequence[int | str] = model.specs.inputs[0].shape
    first = shape[0] if shape else 1
    if isinstance(first, int):
        return first
    limits = axes.get(first, {})
    return min(max(wanted, limits.get("min", 1)), limits.get("max", wanted))


def _contender(
    name: str, engine: str, files: Mapping[str, str], model: OnnxModel, options: Mapping[str, object],
    states: Mapping[str, str],
) -> Contender:  # fmt: skip
    arguments = {"engine": engine, "files": dict(files), "specs": model.specs.to_json(), "options": dict(options)}
    streaming = Streaming(states, model.specs.inputs) if states else None
    return Contender(
        name, "runtime.worker:open_engine", arguments,
        takes=model.specs.inputs, streaming=streaming, modules=engines.get(engine).FORKABLE,
    )  # fmt: skip


def _disagrees(
    got: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: float, decoding: Decoding | None = None
) -> Lost | None:
    error, name = relative_error(got, wanted, decoding)
    if error <= tolerance:
        return None
    values = got.get(name, np.empty(0))
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return Lost("wrong", f"its output '{name}' has NaN or infinity where its ONNX file has none")
    if name in got and values.shape != wanted[name].shape:
        own = list(wanted[name].shape)
        return Lost("wrong", f"its output '{name}' is {list(values.shape)}, its own ONNX file's is {own}")
    return Lost("wrong", f"its output '{name}' differs from its own ONNX file by {error:.2g} (allowed {tolerance:.2g})")
