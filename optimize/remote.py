"""`optimize bench BUNDLE --ssh HOST`: bundle and runtime go there by the system's ssh, the figures come back."""

import json
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import runtime
from runtime import bundle as bundles
from runtime.errors import InputError, WorkError

SSH = ("ssh", "-o", "BatchMode=yes")
RESULT = "device.json"


def bench(places: Sequence[str], host: str, python: str, budget: float, out: Path | None) -> dict[str, Any]:
    """What `python -m runtime bench` says on another machine.

    That machine needs tar, Python with numpy, and the engines' libraries; nothing is installed there, and what was
    copied is removed in the end. Keys and ports are those of ssh's own configuration.

    Args:
        places: one bundle's folder.
        host: as ssh has it: `name`, `user@name`, or a name in its configuration.
        python: the interpreter there.
        budget: seconds.
        out: a file for the result too.

    Raises:
        InputError: the bundle is no bundle, or the host is not one.
        WorkError: it cannot be reached, or what was asked failed there.
    """
    if len(places) != 1:
        raise InputError(f"--ssh takes one bundle; got {len(places)}: its engines are compared with each other there.")
    bundle = bundles.read(places[0])
    if host.startswith("-") or not host:
        raise InputError(f"--ssh takes a host, as ssh does; got '{host}'.")
    if not shutil.which("ssh"):
        raise InputError("there is no ssh here: apt-get install openssh-client")
    folder = _ssh(host, "mktemp -d").strip()
    if not folder.startswith("/"):
        raise WorkError(f"{host}: mktemp -d gave '{folder[:100]}', not a folder.")
    there = shlex.quote(folder)
    try:
        with tempfile.TemporaryFile() as archive:
            _pack(archive, bundle.path)
            archive.seek(0)
            _ssh(host, f"tar -xf - -C {there}", archive)
        asked = [python, "-m", "runtime", "bench", "bundle", "--budget", str(budget), "--out", RESULT]
        _ssh(host, f"cd {there} && {shlex.join(asked)} >/dev/null", speaking=True)
        said = _ssh(host, f"cat {there}/{RESULT}")
    finally:
        _ssh(host, f"rm -rf {there}", careful=False)
    try:
        found: dict[str, Any] = json.loads(said)
    except ValueError as error:
        raise WorkError(f"{host}: what came back is no result: {said[:100]}") from error
    if out:
        try:
            out.write_text(said, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{out} cannot be written: {error.strerror}") from error
    return found


def _pack(archive: IO[bytes], bundle: Path) -> None:
    """The bundle as `bundle`, and this package `runtime` beside it."""

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in entry.name else entry

    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(bundle, "bundle")
        tar.add(Path(runtime.__file__).parent, "runtime", filter=wanted)


def _ssh(
    host: str, command: str, source: IO[bytes] | None = None, *, speaking: bool = False, careful: bool = True
) -> str:
    """A command there; with `speaking` its progress is shown, without `careful` its failure does not matter.

    Raises:
        WorkError: it failed, with its last words.
    """
    last: list[str] = []
    with (
        tempfile.TemporaryFile() as said,  # no pipe, which would stand still when it is full
        subprocess.Popen(
            [*SSH, "--", host, command], stdin=source or subprocess.DEVNULL, stdout=said, stderr=subprocess.PIPE
        ) as process,
    ):
        try:
            for line in process.stderr or ():
                text = line.decode(errors="replace").rstrip()
                last = [*last[-4:], text]
                if speaking:
                    print(text, file=sys.stderr)
        except BaseException:
            process.kill()
            raise
        if process.wait() and careful:
            raise WorkError(f"{host}: {_reason(process.returncode, last)}")
        said.seek(0)
        return said.read().decode(errors="replace")


def _reason(code: int, last: Sequence[str]) -> str:
    words = "; ".join(line for line in last if line) or f"exit code {code}"
    if code == 255:
        return f"ssh does not get there: {words}"
    if "No module named 'numpy'" in words:
        return "Python there has no numpy: pip install numpy and an engine's library, or name another by --python"
    return words
