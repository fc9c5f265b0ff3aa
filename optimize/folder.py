"""The output folder: is it ours to write, and the log file in it, which takes what vendors print."""

import contextlib
import fcntl
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from runtime.errors import InputError

log = logging.getLogger(__name__)

LOG = "log.txt"
_LOCK = ".lock"
_WORK = ".work-"
MARKS = (LOG, "report.json", "bundle", _LOCK)  # what an earlier run of ours leaves


@contextlib.contextmanager
def claimed(out: Path) -> Iterator[Path]:
    """Hold the output folder, made where it is not there; one that holds something else is refused.

    Raises:
        InputError: it is a file, is not empty and not of an earlier run, may not be written, or another run holds it.
    """
    try:
        if out.is_dir() and any(out.iterdir()) and not any((out / mark).exists() for mark in MARKS):
            raise InputError(f"the folder {out} is not empty and not from an earlier run; choose another with --out.")
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / _LOCK).open("w")
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{out} is a file, not a folder; choose another with --out.") from error
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}; choose another with --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            held = f"another run is writing into {out}; wait for it, or choose another with --out."
            raise InputError(held) from error
        try:
            yield out
        finally:
            (out / _LOCK).unlink(missing_ok=True)


def fresh(out: Path) -> Path:
    """A new folder to work in, in the output folder that this run holds; what killed runs left there is removed."""
    for left in out.glob(f"{_WORK}*"):
        shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_WORK, dir=out))


@contextlib.contextmanager
def chatter_to(path: Path) -> Iterator[TextIO]:
    """Send all that vendors print, warn and log to a file, in C++ too; yields the screen (the real standard error)."""
    root = logging.getLogger()
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    with _redirected(path) as screen, warnings.catch_warnings():
        logging.captureWarnings(True)
        warnings.simplefilter("default")
        try:
            yield screen
        finally:
            logging.captureWarnings(False)
            root.handlers[:] = handlers
            root.setLevel(level)
            handler.close()


@contextlib.contextmanager
def warnings_to_log() -> Iterator[None]:
    """What libraries warn of their own inner workings goes to the log."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        log.info("%s: %s", warning.category.__name__, warning.message)


@contextlib.contextmanager
def _redirected(path: Path) -> Iterator[TextIO]:
    """File descriptors 1 and 2 lead to a file; libraries write to these whatever Python's streams are."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    screen = os.fdopen(os.dup(saved[1]), "w", encoding="utf-8", errors="replace")
    try:
        yield screen
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, kept in zip((1, 2), saved, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)
        with contextlib.suppress(BrokenPipeError):
            screen.close()
