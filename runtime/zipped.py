"""A bundle that comes as one .zip: unpacked into the cache, after its list of contents was looked through.

Nothing of the list is believed: a name that leads outside, a link, a size that would fill the disk, or a size that lies
ends it before a byte is written for it.
"""

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.bundle import MANIFEST, escapes, sha256
from runtime.cache import address, made
from runtime.errors import BundleError

ENTRIES = 10_000
RATIO = 100  # bytes out of each byte in; weights shrink to a half, and a pruned model's to a tenth
SLACK = 64 * 2**20


def unpacked(path: Path) -> Path:
    """The folder that a .zip's bundle was unpacked into: kept in the cache, by the content of the file.

    Raises:
        BundleError: it is no .zip, holds no bundle, or holds what is refused.
        OSError: the disk is full.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _entries(path, archive)
            extract = partial(_extract, archive, entries)
            return made(address(unpacked=sha256(path)), "unpacked bundle", extract).folder
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, IndexError, RuntimeError) as error:
        raise BundleError(f"{path} is not a bundle: it is a file, and cannot be unpacked as .zip ({error}).") from error


def _entries(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Name in the bundle to entry: of the archive's root, or of the one folder that holds the manifest."""
    listed = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(listed) > ENTRIES:
        raise BundleError(f"{path} has {len(listed)} files; a bundle has at most {ENTRIES}.")
    names = [entry.filename for entry in listed]
    if len(set(names)) != len(names):
        raise BundleError(f"{path} has two files of one name.")
    for entry in listed:
        if escapes(entry.filename) or not entry.filename.isprintable():
            raise BundleError(f"{path}: the name {entry.filename!r} leads out of the bundle; it is refused.")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise BundleError(f"{path}: {entry.filename} is a link; it is refused.")
        if entry.flag_bits & 1:
            raise BundleError(f"{path}: {entry.filename} is encrypted; a bundle is not.")
    total, own = sum(entry.file_size for entry in listed), path.stat().st_size
    if total > RATIO * own + SLACK:
        raise BundleError(f"{path} has {own} bytes and would unpack to {total}; no bundle shrinks so far.")
    roots = [PurePosixPath(name).parent for name in names if PurePosixPath(name).name == MANIFEST]
    root = min(roots, key=lambda one: len(one.parts), default=None)
    if root is None or len(root.parts) > 1:
        raise BundleError(f"{path} is not a bundle: there is no {MANIFEST} in it, nor in a folder of it.")
    inside = (entry for entry in listed if PurePosixPath(entry.filename).is_relative_to(root))
    return {PurePosixPath(entry.filename).relative_to(root).as_posix(): entry for entry in inside}


def _extract(archive: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo], folder: Path) -> dict[str, Any]:
    """Write the entries; one that gives more than its size says is cut off and refused."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    total = sum(entry.file_size for entry in entries.values())
    if total > free:
        raise OSError(f"it takes {total} bytes, and {free} are free in {folder}")
    for name, entry in entries.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        left = entry.file_size
        with target.open("wb") as sink:
            for block in _blocks(archive, entry):
                left -= len(block)
                if left < 0:
                    raise BundleError(f"{entry.filename} is larger than the {entry.file_size} bytes that it says.")
                sink.write(block)
        if left:
            raise BundleError(f"{entry.filename} is smaller than the {entry.file_size} bytes that it says.")
    return {}


def _blocks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    try:
        with archive.open(entry) as source:
            while block := source.read(2**20):
                yield block
    except OSError as error:  # an offset that no file has; that the disk is full is said by who writes
        raise BundleError(f"{entry.filename} cannot be read: {error}") from error
