"""Load a bundle on a device: take the best engine that fits, compile one anew, or fall back, all in the open."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from runtime import bundle as bundles
from runtime import engines, golden
from runtime.bundle import Bundle, EngineEntry
from runtime.engines import Session
from runtime.errors import BundleError, EngineError, EngineMissing, InputError, NoEngineError
from runtime.fitness import misfit
from runtime.host import Host, cores, facts
from runtime.listing import unknown
from runtime.model import Live, Model
from runtime.tensors import Array

FIRST = "the first that runs here"


@dataclass(frozen=True)
class Decision:
    """One engine that was considered: `taken`, or the reason why not."""

    engine: str
    taken: bool
    reason: str


@dataclass(frozen=True)
class Wishes:
    """How an engine is to be opened.

    Attributes:
        threads: of a call; None: as many as the engine was measured with.
        streams: calls that run at once, where the engine divides the cores among them.
        rebuild: an engine that does not fit may be compiled anew from its source.
        check: the golden inputs are run.
    """

    threads: int | None = None
    streams: int | None = None
    rebuild: bool = True
    check: bool = False


@dataclass(frozen=True)
class Opened:
    """An engine that is open.

    Attributes:
        how: as it was built, or compiled anew, and why.
        off: its relative error on the golden answers; None where they were not asked for, or there are none.
    """

    session: Session
    how: str
    off: float | None


def load(
    path: str | Path, engine: str | None = None, threads: int | None = None, *, model: str | None = None,
    streams: int | None = None, check: bool = False, rebuild: bool = True, verify_key: str | Path | None = None,
    warm_up: int = 0, check_nan: bool = False, max_batch: int = 1, max_delay_ms: float = 2.0,
) -> Model:  # fmt: skip
    """Load a bundle: verify its files, take the best engine that runs here, in the bundle's measured order.

    Args:
        path: the bundle's folder, or a .zip of it.
        engine: the name of one of its engines, to take that one or none.
        threads: of a call, instead of as many as the engine was measured with; a GPU's engine has none.
        model: which one, of a bundle with several.
        streams: how many submitted calls run at once, instead of as many as there are cores.
        check: run the golden inputs, and pass over an engine that answers otherwise than where it was built.
        rebuild: compile an engine that does not fit anew from its source, into the cache ($OPTIMIZE_CACHE).
        verify_key: the public key, a PEM file or its text, of whoever must have signed the bundle.
        warm_up: calls to make before this returns.
        check_nan: refuse inputs with NaN.
        max_batch: with more than 1, submitted calls are joined to batches of up to so many samples.
        max_delay_ms: how long the first of such a batch waits for others.

    Raises:
        BundleError: it is damaged, newer than this runtime, not signed by this key, or no bundle.
        InputError: it has no engine or model of this name, or an argument cannot be.
        NoEngineError: none of its engines runs here; the message says why of each.

    Warns:
        RuntimeWarning: an engine that was preferred does not run here; the message says why.
    """
    for name, value, least in (
        ("threads", threads, 1), ("streams", streams, 1), ("warm_up", warm_up, 0), ("max_batch", max_batch, 1),
    ):  # fmt: skip
        if value is not None and (type(value) is not int or value < least):
            raise InputError(f"{name}={value!r}; it takes a whole number from {least}.")
    if not 0 <= max_delay_ms < float("inf"):
        raise InputError(f"max_delay_ms={max_delay_ms!r}; it takes milliseconds from 0.")
    wishes = Wishes(threads, streams, rebuild, check)

    def again(place: str | Path) -> Live:
        return opened(bundles.read(place, model, verify_key), engine, wishes)

    live = again(path)
    found = Model(
        live, again, streams=streams or cores(), check_nan=check_nan, max_batch=max_batch, max_delay_ms=max_delay_ms
    )
    if warm_up:
        feeds = golden.inputs(live.bundle) or _zeros(live.bundle)
        for _ in range(warm_up):
            found.run(feeds)
    return found


def opened(bundle: Bundle, engine: str | None, wishes: Wishes) -> Live:
    """The first engine of a bundle that runs here, opened; raises and warns as `load` does."""
    host = facts(gpus=False)  # an engine for GPUs looks for itself, and faster
    entries = [entry for entry in considered(bundle) if engine in (None, entry.name)]
    if not entries:
        raise InputError(unknown("engine of this bundle", str(engine), (entry.name for entry in considered(bundle))))
    decisions: list[Decision] = []
    for entry in entries:
        try:
            found = open_entry(bundle, entry, host, wishes)
        except (EngineError, InputError) as error:
            decisions.append(Decision(entry.name, False, str(error)))
            continue
        if decisions:
            passed = "; ".join(f"{d.engine}: {d.reason}" for d in decisions)
            said = f"{bundle.name} runs on {entry.name}, not on {passed}"
            warnings.warn(said, RuntimeWarning, stacklevel=4)
        decisions.append(Decision(entry.name, True, found.how))
        return Live(bundle, found.session, tuple(decisions))
    reasons = "\n".join(f"  {d.engine}: {d.reason}" for d in decisions)
    raise NoEngineError(f"no engine of {bundle.path} runs here:\n{reasons}")


def open_entry(bundle: Bundle, entry: EngineEntry, host: Host, wishes: Wishes = Wishes()) -> Opened:
    """Open one engine of a bundle.

    Raises:
        EngineError: it was not built, needs what this machine lacks, does not load, or answers otherwise.
    """
    library = engines.get(entry.engine)
    # what is of the build host, a path that compiling writes to say, is nothing that a bundle may ask for
    entry = replace(entry, options={key: value for key, value in entry.options.items() if key not in library.LOCAL})
    options = dict(entry.options)
    for name in ("threads", "streams"):
        if getattr(wishes, name) is not None and name in library.OPTIONS:
            options[name] = getattr(wishes, name)
    found = library.facts()
    lack = misfit(entry, host, found)
    reason, curable = (lack.reason, lack.curable) if lack else ("", True)
    session = None
    if not lack:
        try:
            session = library.open(bundle.resolve(entry.files), bundle.specs, host, options)
        except EngineMissing:
            raise
        except EngineError as error:
            reason = str(error)
    how = FIRST
    if session is None:
        if not curable or not wishes.rebuild or entry.name not in {one.name for one in bundle.engines}:
            raise EngineError(reason)
        from runtime.rebuild import rebuilt

        try:
            files = rebuilt(bundle, entry, host, found, reason)
        except EngineError as error:
            raise EngineError(f"{reason}; compiling it anew here failed: {error}") from error
        session = library.open(files, bundle.specs, host, options)
        how = f"compiled anew here: {reason}"
    off = None
    if wishes.check or how != FIRST:
        try:
            off = golden.check(bundle, entry.golden, session)
        except (EngineError, BundleError):
            session.close()
            raise
    return Opened(session, how, off)


def considered(bundle: Bundle) -> Iterator[EngineEntry]:
    """The bundle's engines, then its plain ONNX file on each library that may run it."""
    yield from bundle.engines
    for library, options in bundle.fallback.engines.items():
        yield EngineEntry(
            name=f"fallback on {library}",
            target=library,
            engine=library,
            files=bundle.fallback.files,
            source=bundle.fallback.files["model"],
            options=options,
            golden=bundle.fallback.golden,
        )


def _zeros(bundle: Bundle) -> dict[str, Array]:
    sizes = {axis: limits.get("best", 1) for axis, limits in bundle.axes.items()}
    return {spec.name: np.zeros(spec.sized(sizes), spec.dtype) for spec in bundle.specs.inputs}
