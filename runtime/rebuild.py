"""Compile an engine of a bundle anew on this device, from its source, into the user's cache folder."""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from runtime.bundle import Bundle, EngineEntry
from runtime.cache import address, digest, made
from runtime.contender import call
from runtime.engines import onnx_files
from runtime.errors import EngineError
from runtime.host import Host

log = logging.getLogger("runtime")

TELL_S = 10.0  # between two lines that say that it is still going on


def rebuilt(bundle: Bundle, entry: EngineEntry, host: Host, found: Mapping[str, str], why: str) -> dict[str, Path]:
    """The files, role to path; those of an earlier load where source, options, machine and versions are the same.

    Two processes that want the same make it once. Where the cache cannot be written, it is made for this process.

    Raises:
        EngineError: the compiler does not take it, or ended.
    """
    source = bundle.path / entry.source
    machine = {**host.to_json(), "governor": None}
    name = address(
        rebuilt=entry.engine, source=digest(list(onnx_files(source).values())), options=dict(entry.options),
        host=machine, found=dict(found),
    )  # fmt: skip
    said = f"{bundle.name}: {entry.name} is compiled anew here, from its source: {why}"
    kept = made(name, f"rebuild for {entry.engine}", lambda folder: {"roles": _compiled(entry, source, folder, said)})
    return {role: kept.folder / file for role, file in kept.facts["roles"].items()}


def _compiled(entry: EngineEntry, source: Path, folder: Path, said: str) -> dict[str, str]:
    """Role to path in the folder. A process of its own compiles: what crashes there does not crash the caller."""
    with _told(said):
        files = call(
            "runtime.worker:compile_engine", engine=entry.engine, onnx=str(source), out=str(folder),
            options=dict(entry.options),
        )  # fmt: skip
    if not files:
        raise EngineError(f"{entry.engine} made no files of {entry.source}")
    return {role: Path(file).relative_to(folder).as_posix() for role, file in files.items()}


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say that a work begins, every ten seconds that it goes on, and how long it took."""
    begun, ended = time.monotonic(), Event()

    def tell() -> None:
        while not ended.wait(TELL_S):
            log.warning("%.0f s so far: %s", time.monotonic() - begun, what)

    log.warning("%s", what)
    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()
    log.info("done in %.1f s: %s", time.monotonic() - begun, what)
