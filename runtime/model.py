"""Load a bundle on a device: choose the engine, fall back in the open, check each call's arrays, call."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

from runtime import bundle as bundles
from runtime import engines
from runtime.bundle import Bundle, EngineEntry
from runtime.engines import Session
from runtime.errors import EngineError, InputError, NoEngineError
from runtime.host import Host, facts
from runtime.listing import unknown
from runtime.tensors import Array, TensorSpec, check_feeds, name_inputs

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor


@dataclass(frozen=True)
class Decision:
    """One engine that was considered: `taken`, or the reason why not."""

    engine: str
    taken: bool
    reason: str


class Model:
    """A bundle's model, ready to run; safe to call from several threads.

    Attributes:
        engine: the name of the engine that runs.
        decisions: every engine that was considered, in order.
        inputs: what a call takes.
        outputs: what it gives.
    """

    def __init__(self, bundle: Bundle, session: Session, decisions: tuple[Decision, ...]) -> None:
        self.bundle = bundle
        self.engine = decisions[-1].engine
        self.decisions = decisions
        self.inputs: tuple[TensorSpec, ...] = bundle.specs.inputs
        self.outputs: tuple[TensorSpec, ...] = bundle.specs.outputs
        self._session: Session | None = session
        self._pool: ThreadPoolExecutor | None = None
        self._lock = Lock()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name for inputs by name.

        Raises:
            InputError: a name, dtype, rank or fixed dimension does not fit; the engine has not been called.
            EngineError: the engine failed.
        """
        check_feeds(self.inputs, feeds)
        return self._open().run(feeds)

    def __call__(self, *args: Any) -> Any:
        """Run on one array, several in the order of the inputs, or a dict by name.

        Returns:
            The output array; where the model has several, a tuple in the order of `outputs`.
        """
        results = self.run(name_inputs(self.inputs, args))
        found = tuple(results[spec.name] for spec in self.outputs)
        return found[0] if len(found) == 1 else found

    def submit(self, *args: Any) -> "Future[Any]":
        """Call in a thread of the model's own; as many calls run at once as the machine has cores."""
        with self._lock:
            if self._pool is None:
                from concurrent.futures import ThreadPoolExecutor

                from runtime.host import cores

                self._open()
                self._pool = ThreadPoolExecutor(cores(), thread_name_prefix="edge-optimize")
            return self._pool.submit(self, *args)

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """A call of the engine alone, without checks and copies; its time tells what those cost."""
        check_feeds(self.inputs, feeds)
        return self._open().inside(feeds)

    def precision(self) -> Mapping[str, int]:
        """The number formats that truly run here, each with the number of ops."""
        return self._open().precision()

    @property
    def threads(self) -> int:
        """The threads that one call uses."""
        return self._open().threads

    def close(self) -> None:
        """Finish the calls under way and give the memory back."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()  # waits for what was submitted
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._session is not None else ", closed"
        return (
            f"<Model {self.bundle.name!r} on {self.engine}{state}: "
            f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}>"
        )

    def _open(self) -> Session:
        if self._session is None:
            raise InputError("this model is closed; load the bundle again.")
        return self._session


def load(path: str | Path, engine: str | None = None, threads: int | None = None) -> Model:
    """Load a bundle: verify its files, take the best engine that runs here, in the bundle's measured order.

    Args:
        path: the bundle's folder.
        engine: the name of one of its engines, to take that one or none.
        threads: of a call, instead of as many as the engine was measured with; a GPU's engine has none.

    Raises:
        BundleError: it is damaged, newer than this runtime, or no bundle.
        InputError: it has no engine of this name.
        NoEngineError: none of its engines runs here; the message says why of each.

    Warns:
        RuntimeWarning: an engine that was preferred does not run here; the message says why.
    """
    bundle = bundles.read(path)
    host = facts()
    entries = list(considered(bundle))
    if engine is not None:
        entries = [entry for entry in entries if entry.name == engine]
        if not entries:
            raise InputError(unknown("engine of this bundle", engine, (entry.name for entry in considered(bundle))))
    decisions: list[Decision] = []
    for entry in entries:
        try:
            session = open_entry(bundle, entry, host, threads)
        except (EngineError, InputError) as error:
            decisions.append(Decision(entry.name, False, str(error)))
            continue
        if decisions:
            passed = "; ".join(f"{d.engine}: {d.reason}" for d in decisions)
            warnings.warn(f"{bundle.name} runs on {entry.name}, not on {passed}", RuntimeWarning, stacklevel=2)
        decisions.append(Decision(entry.name, True, "the first that runs here"))
        return Model(bundle, session, tuple(decisions))
    reasons = "\n".join(f"  {d.engine}: {d.reason}" for d in decisions)
    raise NoEngineError(f"no engine of {bundle.path} runs here:\n{reasons}")


def open_entry(bundle: Bundle, entry: EngineEntry, host: Host, threads: int | None = None) -> Session:
    """Open one engine of a bundle.

    Raises:
        EngineError: it was not built, needs what this machine lacks, or does not load.
    """
    if not entry.files:
        raise EngineError("it could not be built on the build host, and travels as its source only")
    wanted = entry.needs.get("instruction_sets_any", ())
    if wanted and not set(wanted) & set(host.instruction_sets):
        raise EngineError(f"it needs one of {', '.join(wanted)}, and this processor has none")
    engine, options = engines.get(entry.engine), entry.options
    if threads is not None and "threads" in engine.OPTIONS:
        options = {**options, "threads": threads}
    return engine.open(bundle.resolve(entry.files), bundle.specs, host, options)


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
        )
