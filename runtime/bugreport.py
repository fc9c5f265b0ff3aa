"""`python -m runtime report-bug BUNDLE`: one .zip with what somebody needs who is to say why a bundle fails there."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from runtime import bundle as bundles
from runtime import engines, host
from runtime.errors import EngineMissing, Error, InputError

DISTRIBUTIONS = ("edge-optimize", "numpy", "onnx", "cuda-python", "cryptography")
LOG_BYTES = 2**20  # of the end of a log


def write(bundle: Path, out: Path, log: Path | None, tried: dict[str, Any]) -> list[str]:
    """Pack versions, the machine, the manifest, what was tried and a log; no weights, and no data. Returns the names.

    Raises:
        InputError: the log cannot be read, or `out` cannot be written.
    """
    found: dict[str, str] = {
        "host.json": _json(host.facts().to_json()),
        "versions.json": _json(_versions()),
        "tried.json": _json(tried),
    }
    if bundle.is_dir():
        try:
            found["manifest.json"] = bundles.read_manifest(bundle).decode(errors="replace")
        except Error as error:
            found["manifest.txt"] = str(error)
        files = {file.relative_to(bundle).as_posix(): file.lstat().st_size for file in sorted(bundle.rglob("*"))}
        found["files.json"] = _json(files)
    if log is not None:
        try:
            found["log.txt"] = log.read_bytes()[-LOG_BYTES:].decode(errors="replace")
        except OSError as error:
            raise InputError(f"the log {log} cannot be read: {error.strerror}") from error
    try:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in found.items():
                archive.writestr(name, text)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error
    return sorted(found)


def _versions() -> dict[str, Any]:
    found: dict[str, Any] = {"python": sys.version, **host.versions(DISTRIBUTIONS)}
    for name in engines.names():
        try:
            found[name] = engines.get(name).facts()
        except EngineMissing as error:
            found[name] = str(error)
    return found


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=str) + "\n"
