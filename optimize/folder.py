"""The output folder: is it ours to write, and the log file in it."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import InputError

MARKS = ("log.txt", "report.json", "bundle")  # what an earlier run of ours leaves
LOG = "log.txt"


def claim(out: Path) -> Path:
    """Make the output folder; one that holds something else is refused.

    Raises:
        InputError: it is a file, is not empty and not of an earlier run, or may not be written.
    """
    try:
        if out.is_dir() and any(out.iterdir()) and not any((out / mark).exists() for mark in MARKS):
            raise InputError(f"the folder {out} is not empty and not from an earlier run; choose another with --out.")
        out.mkdir(parents=True, exist_ok=True)
        probe = out / LOG
        probe.touch()
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{out} is a file, not a folder; choose another with --out.") from error
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}; choose another with --out.") from error
    return out


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send log records and warnings of vendors to a file, and keep them off the screen."""
    root = logging.getLogger()
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            logging.captureWarnings(True)
            warnings.simplefilter("default")
            yield
    finally:
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        handler.close()
