"""recipe.lock: all that decides the bytes of a bundle's ONNX files; `optimize run --locked` makes them anew by it.

Model, data and versions must be the lock's. What cannot be is told apart from what should: a compiled engine holds what
its library chose by timing, and reports hold times and dates. The choice was made by measured latencies, so that a
locked run takes the lock's.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from optimize import plan, processes, recipe, trials, until
from optimize.build import Built
from optimize.changes import changed, flat
from optimize.flags import asked_for, named
from optimize.models import TorchModel
from optimize.origin import weights
from optimize.plan import Candidate
from optimize.recipe import Recipe
from optimize.repair import with_layers
from optimize.report import Report, Row, SplitFacts
from optimize.select import Choice
from optimize.subject import Subject
from optimize.trials import Trial
from optimize.usercode import user_files
from runtime import host
from runtime.bundle import Bundle, sha256
from runtime.engines import onnx_files
from runtime.errors import InputError, WorkError
from runtime.host import Host

SCHEMA = 1
FILE = "recipe.lock"
MACHINE = ("system", "architecture", "cpu", "instruction_sets", "cores", "gpus")  # by which sums may round otherwise
NEVER_THE_SAME = (
    "what holds times, dates and measured figures is never the same bytes: report/, sbom.json, manifest.json; USE.md "
    "and the Dockerfiles have the output folder's name; golden answers are the compiled engines'"
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Made(_Part):
    """The files of a candidate, role to sha256.

    Attributes:
        layers: those that a repair found and returned to float.
        options: what its engine is opened with.
    """

    onnx: dict[str, str]
    engine: dict[str, str]
    layers: list[str] = Field(default_factory=list)
    options: dict[str, Any] = Field(default_factory=dict)


class Lock(_Part):
    """recipe.lock, format 1.

    Attributes:
        made_with: distribution to version.
        machine: as in the report.
        threads: of torch.
        processes: of `accelerate launch`.
        seeds: place in the recipe to seed; they stand in it too.
        folder: to which the recipe's paths are relative, seen from the lock's own.
        recipe: with all defaults.
        trials: of how much to prune: percent of the multiplications that are kept, and the importance.
        weights: sha256 of the model's weights and buffers as they were loaded.
        files: of the model and the user's code, path in `folder` to sha256.
        widths: of each step that prunes until a latency, in order, layer to the channels that it keeps, or the blocks
            that go; null where none were found.
        bundle: path to sha256; empty in the copy that lies in the bundle, whose manifest has them.
    """

    schema_: int = Field(default=SCHEMA, alias="schema")
    made_with: dict[str, str]
    machine: dict[str, Any]
    threads: int
    processes: int
    seeds: dict[str, int]
    folder: str
    recipe: dict[str, Any]
    weights: str
    files: dict[str, str]
    data: dict[str, SplitFacts]
    candidates: dict[str, Made]
    trials: list[tuple[int, str]] = Field(default_factory=list)
    chosen: dict[str, str]
    closest: dict[str, str]
    widths: list[until.Found] = Field(default_factory=list)
    bundle: dict[str, str] = Field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """Write recipe.lock into a folder."""
        path = folder / FILE
        path.write_text(self.model_dump_json(by_alias=True, indent=1) + "\n", encoding="utf-8")
        return path

    def sealed(self, bundle: Bundle) -> "Lock":
        """With the files of the bundle that was written, but for its copy of this."""
        files = {name: one.sha256 for name, one in bundle.files.items() if name != f"report/{FILE}"}
        return self.model_copy(update={"bundle": files})


def of(asked: Recipe, out: Path, subject: Subject, report: Report, built: Mapping[str, Built], threads: int) -> Lock:
    """The lock of a run whose output folder is `out`."""
    said = asked.plain()
    return Lock(
        made_with=report.made_with,
        machine=report.machine,
        threads=threads,
        processes=processes.count(),
        seeds={place: value for place, value in flat(said).items() if place.rpartition(".")[2] == "seed"},
        folder=Path(os.path.relpath(asked.folder.resolve(), out.resolve())).as_posix(),
        recipe=said,
        weights=weights(subject.model),
        files=_files(asked, subject),
        data=report.data.splits,
        candidates={row.name: _made(built[row.name], row) for row in report.candidates if row.name in built},
        trials=sorted(
            {
                (round(100 * step["macs"]), step["importance"])
                for row in report.candidates
                for step in row.steps
                if asked.steps == "auto" and step["use"] == "prune_channels"
            }
        ),
        chosen=report.chosen,
        closest=report.closest,
        widths=until.found(subject.plans),
    )


@dataclass(frozen=True)
class Pinned:
    """A lock that a run keeps to, and what it asks for."""

    path: Path
    lock: Lock
    asked: Recipe

    def _check(self, subject: Subject) -> None:
        """Raise InputError where the loaded model or the data is not the lock's."""
        if self.lock.weights != weights(subject.model):
            raise InputError(
                f"the model's weights are not those of {self.path}, though its files are: what builds it gives others "
                "each time. Seed it, or name a file in [model] weights."
            )
        for name, was in self.lock.data.items():
            now = subject.facts.splits[name]
            if now.sha256 != was.sha256:
                sizes = f"{now.samples} samples, {was.samples} in the lock" if now.samples != was.samples else "sha256"
                raise InputError(f"the data is not that of {self.path}: the split '{name}' differs ({sizes}).")

    def plans(self, subject: Subject) -> until.Plans:
        """The subject's, with what was found then."""
        return until.with_found(subject.plans, self.lock.widths)

    def candidates(self, subject: Subject) -> list[Candidate]:
        """Those that were chosen and those that are measured beside them, as the lock's machine had them.

        Raises:
            InputError: the model or the data is not the lock's, or the recipe makes no such candidate.
        """
        self._check(subject)
        machine = _host(self.lock)
        known = {one.name: one for one in plan.expand(self.asked, machine, subject.plans)}
        for kept, importance in self.lock.trials:
            more = trials.candidates(self.asked, machine, Trial(kept, importance))
            known = {**{one.name: one for one in more}, **known}
        found = [one for one in known.values() if one.role != "steps" and one.name in self.lock.candidates]
        for name in self.lock.chosen.values():
            made = self.lock.candidates.get(name)
            # what a search found has the name of that which it began with, and more behind it
            base = max((one for one in known if name == one or name.startswith(f"{one}-")), key=len, default=None)
            if made is None or base is None:
                raise InputError(f"{self.path} chose {name}, which its recipe does not make: it was changed.")
            one = with_layers(known[base], tuple(made.layers), name) if made.layers else known[base]
            found.append(
                one if name == base else replace(one, name=name, role="steps", options=made.options or one.options)
            )
        return list({one.name: replace(one, repair=None) for one in found}.values())

    def compared(self, built: Mapping[str, Built]) -> tuple[list[str], list[str]]:
        """The ONNX files that are not the lock's, a sentence each with what may be the reason.

        And notes for the report, which say what else is the same, and what cannot be.
        """
        unlike = [
            f"{name}: its ONNX file is not the lock's; {self._reason(one)}"
            for name, one in built.items()
            if _sums(onnx_files(one.model.path)) != self.lock.candidates[name].onnx
        ]
        engines: dict[bool, list[str]] = {True: [], False: []}
        for name, one in built.items():
            if one.files:
                engines[_sums(one.files) == self.lock.candidates[name].engine].append(name)
        found = [
            f"made anew by {self.path}, nothing out of the cache; the choice is the lock's, since it went by latencies "
            "that were measured then",
            f"{len(built) - len(unlike)} of {len(built)} ONNX files are the lock's, bit by bit",
        ]
        if engines[True]:
            found.append(f"compiled engines that are the same bytes too: {', '.join(engines[True])}")
        if engines[False]:
            found.append(
                f"compiled engines that are other bytes: {', '.join(engines[False])}; a library may choose kernels by "
                "timing them, and write what is of the build into its file"
            )
        return unlike, [*found, NEVER_THE_SAME, *self._machine()]

    def choices(self, rows: Mapping[str, Row], unlike: Sequence[str]) -> dict[str, Choice]:
        """The lock's, target by target.

        Raises:
            WorkError: what it chose does not run here.
        """
        found = {}
        for target in self.asked.targets:
            name = self.lock.chosen.get(target)
            if name and rows[name].status in ("failed", "wrong", "dropped"):
                raise WorkError(f"{name}, which {self.path} chose, does not run here: {rows[name].reason}")
            other = any(one.startswith(f"{name}: ") for one in unlike)
            why = f"taken from the lock; its ONNX file is {'another' if other else 'the same, bit by bit'}"
            found[target] = Choice(name, why if name else "none in the lock", self.lock.closest.get(target))
        return found

    def _machine(self) -> list[str]:
        here = host.facts().to_json()
        unlike = [
            f"{what} {_words(here[what])} here, {_words(self.lock.machine.get(what))} there"
            for what in MACHINE
            if _words(here[what]) != _words(self.lock.machine.get(what))
        ]
        return [f"this machine is not the lock's: {'; '.join(unlike)}"] if unlike else []

    def _reason(self, made: Built) -> str:
        found, listed = [*self._machine()], self.lock.recipe["steps"]
        automatic = listed == "auto" and any(one.use == "recover" for one in made.made)  # whose training has minutes
        if automatic or (listed != "auto" and any(step.get("minutes") for step in listed)):
            found.append("training ended by the clock (minutes)")
        if self.lock.machine.get("gpus"):
            found.append("a GPU adds up in no fixed order")
        return "; ".join(found) or "no reason is known: something in the model's or the data's code may have no seed"


def opened(path: Path, what: str | Path | Recipe | None, out: Path, more: Mapping[str, Any]) -> Pinned:
    """Read a lock, and see that versions and files are what it says.

    Args:
        path: of the lock.
        what: the recipe, where it no longer lies where the lock says.
        out: where the run will write.
        more: what else was asked for, by its flag; which must be nothing.

    Raises:
        InputError: it is no lock; or the versions, the processes, the recipe or the files are others.
    """
    if given := [name for name, value in more.items() if value]:
        said = named(given).replace("--set", "--set (or --quick, --only and the like)")
        raise InputError(f"{said} with --locked: the lock has all that decides; leave it out.")
    if out.resolve() == path.resolve().parent:
        raise InputError(f"--locked {path} would write over itself: give another folder with --out.")
    lock = _read(path)
    _check_versions(path, lock)
    if lock.processes != processes.count():
        again = f"accelerate launch --num_processes {lock.processes} -m optimize run --locked {path}"
        raise InputError(f"{path} was made by {lock.processes} processes, here are {processes.count()}: {again}")
    if not (what is None or isinstance(what, Recipe) or str(what).endswith(".toml")):
        raise InputError(f"--locked takes a recipe beside it, where its files lie, or nothing; got '{what}'.")
    if what is None:
        asked = recipe.from_table(lock.recipe, path.parent / lock.folder)
    else:
        asked = asked_for(what, (), {})
        if unlike := changed(lock.recipe, asked.plain()):
            said = "; ".join(f"{place}: {was} -> {now}" for place, (was, now) in unlike.items())
            raise InputError(f"the recipe is not that of {path}: {said}.")
    for name, was in lock.files.items():
        file = asked.folder / name
        if not file.is_file():
            raise InputError(
                f"no such file: {file}, of which {path} was made. Where it lies elsewhere now, name the recipe beside "
                f"it: optimize run RECIPE.toml --locked {path}"
            )
        if sha256(file) != was:
            raise InputError(f"the files are not those of {path}: {file} was changed (sha256).")
    return Pinned(path, lock, asked)


@contextlib.contextmanager
def empty_cache(folder: Path) -> Iterator[None]:
    """Within it the cache is this folder, for processes that are started too: what is in the user's proves nothing."""
    kept = os.environ.get("OPTIMIZE_CACHE")
    os.environ["OPTIMIZE_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["OPTIMIZE_CACHE"]
        if kept is not None:
            os.environ["OPTIMIZE_CACHE"] = kept


def _read(path: Path) -> Lock:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        newer = found["schema"]
        if isinstance(newer, int) and newer > SCHEMA:
            raise InputError(
                f"{path} is of format {newer}, this version reads up to {SCHEMA}: pip install -U edge-optimize"
            )
        lock = Lock.model_validate(found)
        _host(lock)
        return lock
    except OSError as error:
        raise InputError(f"no lock at {path}: {error.strerror or error}. optimize run writes DIR/{FILE}.") from error
    except (ValueError, KeyError, TypeError) as error:  # pydantic's and json's are ValueErrors
        raise InputError(f"{path} is damaged, or no lock: {' '.join(str(error).split())[:200]}") from error


def _host(lock: Lock) -> Host:
    """The machine that a lock was made on; raises TypeError where it is none."""
    facts: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in lock.machine.items()}
    return Host(**facts)


def _check_versions(path: Path, lock: Lock) -> None:
    was, now = (one.python.split(".")[:2] for one in (_host(lock), host.facts(gpus=False)))
    if was != now:
        raise InputError(f"{path} was made by Python {'.'.join(was)}, this is {'.'.join(now)}: run it with that one.")
    here = host.versions(lock.made_with)
    if unlike := {name: version for name, version in lock.made_with.items() if here.get(name) != version}:
        said = "; ".join(f"{name} {here.get(name, 'is not')} here, {version} there" for name, version in unlike.items())
        mend = " ".join(f"'{name}=={version}'" for name, version in unlike.items())
        raise InputError(f"the versions are not those of {path} ({said}): pip install {mend}")


def _files(asked: Recipe, subject: Subject) -> dict[str, str]:
    spec, root = asked.model_spec(), asked.folder.resolve()
    named = [Path(place) for place in (spec.place, spec.weights) if place and ".py:" not in place]
    leaves = flat(asked.plain()).values()
    # what a step imports is not imported where its result came out of the cache
    named += [root / leaf.rpartition(":")[0] for leaf in leaves if isinstance(leaf, str) and ".py:" in leaf]
    named += user_files() if isinstance(subject.model, TorchModel) else []
    named += [Path(file) for one in subject.pre for file in one.files.values()]
    found = {file for one in named for file in _below(one)}
    return {Path(os.path.relpath(file, root)).as_posix(): sha256(file) for file in sorted(found)}


def _below(path: Path) -> Iterator[Path]:
    """A file with what lies beside it as its external data, or all files of a folder."""
    files = onnx_files(path).values() if path.is_file() else path.rglob("*")
    yield from (one.resolve() for one in files if one.is_file())


def _made(built: Built, row: Row) -> Made:
    layers = [one.name for one in row.repair if one.returned]
    return Made(
        onnx=_sums(onnx_files(built.model.path)), engine=_sums(built.files), layers=layers, options=dict(row.options)
    )


def _sums(files: Mapping[str, Path]) -> dict[str, str]:
    return {role: sha256(file) for role, file in files.items()}


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)
