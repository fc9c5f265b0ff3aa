"""Results of steps on disk, addressed by the content of what went in: computed once, kept through a kill, shared.

An address is the sha256 of the step's settings, of the address (or the bytes) of the model it was given, of the data,
of the target's scheme where it matters, and of the versions of all that takes part. An entry is a folder of files with
`entry.json` beside them, which has the sha256 of each. It is written under another name and renamed, so that half an
entry cannot be seen. Whoever makes one holds a lock on its address, so that two runs at once make it once.
"""

import atexit
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bundle import sha256
from runtime.errors import Error

log = logging.getLogger("runtime")

FORMAT = 1  # of an entry; another number is another address
_MANIFEST = "entry.json"
_UNFINISHED = ".unfinished-"


def default_folder() -> Path:
    """$OPTIMIZE_CACHE, else edge-optimize in the user's cache folder (XDG base directories)."""
    if asked := os.environ.get("OPTIMIZE_CACHE"):
        return Path(asked)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-optimize"


def address(**parts: Any) -> str:
    """The sha256 of JSON values by name; equal values, equal address."""
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def digest(files: Sequence[Path]) -> str:
    """One sha256 of the bytes of several files, by name."""
    return address(files={file.name: sha256(file) for file in files})


@dataclass(frozen=True)
class Entry:
    """A result in the cache: its folder, and what was noted with it."""

    folder: Path
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Cache:
    """The entries below one folder."""

    folder: Path

    def get(self, name: str) -> Entry | None:
        """The entry of an address; one whose files are not as they were written is removed."""
        folder = self.folder / name
        if not folder.exists():
            return None
        try:
            manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
            files = {str(file): str(sum_) for file, sum_ in manifest["files"].items()}
            sound = all(sha256(folder / file) == sum_ for file, sum_ in files.items())
            facts = dict(manifest["facts"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        os.utime(folder)  # what was used last is cleaned last
        return Entry(folder, facts)

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """Hold an address while its result is made: a folder to work in, which outlives a kill, so that work goes on.

        Another run that wants the same waits here, and finds it made. A failure of the work's own leaves nothing.
        """
        room = self.folder / f"{_UNFINISHED}{name}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(room.with_name(f"{room.name}.lock")):
            room.mkdir(exist_ok=True)
            try:
                yield room
            except Error:
                shutil.rmtree(room, ignore_errors=True)
                raise
            shutil.rmtree(room, ignore_errors=True)  # made, or found in the cache; after a kill it stays

    def put(self, name: str, folder: Path, facts: Mapping[str, Any]) -> Entry:
        """Keep a folder's files (one in the room of an address that is held) under that address."""
        files = {path.relative_to(folder).as_posix(): sha256(path) for path in folder.rglob("*") if path.is_file()}
        text = json.dumps({"files": files, "facts": facts}, indent=1)
        (folder / _MANIFEST).write_text(text, encoding="utf-8")
        target = self.folder / name
        folder.rename(target)
        return Entry(target, facts)

    def forget(self, name: str) -> None:
        """Remove the entry of an address, where there is one."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def entries(self) -> list[tuple[str, Mapping[str, Any], int, float]]:
        """Address, facts, bytes and time of last use of every entry, the latest first."""
        found = []
        for folder in self.folder.glob("*"):
            if folder.name.startswith(_UNFINISHED):
                continue
            try:
                facts = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["facts"]
            except (OSError, ValueError, KeyError):
                facts = {"use": "damaged"}
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            found.append((folder.name, facts, size, folder.stat().st_mtime))
        return sorted(found, key=lambda entry: -entry[3])

    def clean(self, keep_bytes: int = 0) -> int:
        """Remove what was not used for longest, until no more than `keep_bytes` are left; returns the bytes freed."""
        freed = kept = 0
        for name, _, size, _ in self.entries():
            if kept + size <= keep_bytes:
                kept += size
                continue
            shutil.rmtree(self.folder / name, ignore_errors=True)
            freed += size
        for left in self.folder.glob(f"{_UNFINISHED}*"):
            if left.is_dir() and _free(left.with_name(f"{left.name}.lock")):
                freed += sum(path.stat().st_size for path in left.rglob("*") if path.is_file())
                shutil.rmtree(left, ignore_errors=True)
        return freed


def made(name: str, use: str, make: Callable[[Path], Mapping[str, Any]]) -> Entry:
    """The entry of an address in the user's cache; where none can be written there, one for this process alone.

    Args:
        name: the address.
        use: what it is, for `optimize cache ls`.
        make: writes the files into a folder that is not there yet; gives further facts.

    Raises:
        OSError: nor can it be written elsewhere.
    """
    try:
        cache = Cache(default_folder())
        with cache.making(name) as room:
            found = cache.get(name)
            if found is None:
                folder = room / "result"
                shutil.rmtree(folder, ignore_errors=True)
                found = cache.put(name, folder, {"use": use, **make(folder)})
            return found
    except OSError as error:
        room = Path(tempfile.mkdtemp(prefix="edge-optimize-"))
        atexit.register(shutil.rmtree, room, ignore_errors=True)
        log.warning("%s: the cache cannot be written (%s), so it is made for this process only", use, error)
        return Entry(room / "result", make(room / "result"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; it is removed when done, so whoever waited for it looks whether it is still the one there."""
    while True:
        with path.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            if not path.exists() or os.fstat(stream.fileno()).st_ino != path.stat().st_ino:
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _free(lock: Path) -> bool:
    """Whether no run holds this lock: one that was killed does not."""
    try:
        with lock.open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    lock.unlink(missing_ok=True)
    return True
