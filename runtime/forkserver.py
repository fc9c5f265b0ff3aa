"""Processes forked from one that has imported their libraries: they need not import them once more.

To import an engine takes longer than to load most models that run on an edge device, and a measurement needs process
after process. A *fork server* imports, and from then on does nothing but fork. What is forked has an address space of
its own, takes its memory from the system anew, and makes its own threads; where the libraries' code lies is shared by
all that come from one server. So a server may only import what starts no thread of its own (an engine's `FORKABLE`),
and where a cold start is on the clock, a process is started anew.

Linux alone: elsewhere libraries of the system itself do not bear a fork.
"""

import contextlib
import gc
import importlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from runtime.engines import SILENT

FORK, WAIT, ALIVE = 0, 1, -1
_ASK, _ANSWER = struct.Struct("<bq"), struct.Struct("<q")  # what to do, and memory in bytes or a process; a number
POLL_S = 0.005
# what libraries set by themselves once they are loaded, in every process
_THEIRS = {*SILENT, "TORCHINDUCTOR_CACHE_DIR", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}

_servers: dict[tuple[str, ...], "ForkServer"] = {}
_making = threading.Lock()


class Forked:
    """A process of a fork server: of `subprocess.Popen` what a worker needs."""

    returncode: int | None = None

    def __init__(self, server: "ForkServer", pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._server = server

    def kill(self) -> None:
        """End it, unless it is known to have ended; until it is waited for, its number is nobody else's."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # a server that has gone keeps no number for it
                os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, minus the signal's number where one ended it; raises `subprocess.TimeoutExpired`."""
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.returncode is None:
            try:
                status = self._server.ask(WAIT, self.pid)
            except OSError:  # the server has gone, and with it what it would have said
                status = signal.SIGKILL
            if status != ALIVE:
                self.returncode = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            else:
                time.sleep(POLL_S)
        return self.returncode


class ForkServer:
    """A process that has imported some modules, or called the functions (`module:function`) that do, and forks."""

    def __init__(self, modules: Sequence[str], command: Sequence[str], env: dict[str, str], log: Path) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, log.open("ab") as chatter:
            process = subprocess.Popen(
                [*command, "runtime.forkserver", *modules],
                stdin=theirs.fileno(), stdout=chatter, stderr=chatter, env=env, start_new_session=True,
            )  # fmt: skip
        self.circumstances = _circumstances(env)
        self._lock = threading.Lock()
        weakref.finalize(self, _end, self._socket, process, os.getpid())

    def fork(self, log: IO[bytes], memory_bytes: int, limit_s: float) -> Forked:
        """A new process, which serves as `runtime.worker` does.

        Raises:
            OSError: the server has ended, or takes longer than `limit_s` to import.
        """
        given, stdin = os.pipe()
        stdout, answers = os.pipe()
        try:
            pid = self.ask(FORK, memory_bytes, (given, answers, log.fileno()), limit_s)
        except BaseException:
            os.close(stdin)
            os.close(stdout)
            raise
        finally:
            os.close(given)
            os.close(answers)
        return Forked(self, pid, os.fdopen(stdin, "wb"), os.fdopen(stdout, "rb"))

    def ask(self, what: int, number: int, files: Sequence[int] = (), limit_s: float = 60.0) -> int:
        """One question, and its answer; raises OSError where none comes, and none comes from then on."""
        with self._lock:
            try:
                self._socket.settimeout(limit_s)
                socket.send_fds(self._socket, [_ASK.pack(what, number)], files)
                answer = self._socket.recv(_ANSWER.size)
                if not answer:
                    raise EOFError
            except BaseException as error:  # Ctrl-C too
                self._socket.close()  # an answer that comes late is not taken for that of the next question
                if isinstance(error, EOFError):
                    raise OSError("the fork server has ended") from error
                raise
        return int(_ANSWER.unpack(answer)[0])

    @property
    def gone(self) -> bool:
        """Whether it has failed to answer."""
        return self._socket.fileno() < 0


def get(modules: tuple[str, ...], command: Sequence[str], env: dict[str, str], log: Path) -> ForkServer | None:
    """The server of these modules, started where there is none yet; None where processes cannot be forked.

    A process inherits the environment, the working folder and the processors that it may use; where these are others
    than when the server was started, there is another server.
    """
    if not modules or sys.platform != "linux":
        return None
    with _making:
        found = _servers.get(modules)
        if found is None or found.circumstances != _circumstances(env):
            found = _servers[modules] = ForkServer(modules, command, env, log)
    return None if found.gone else found


def _circumstances(env: dict[str, str]) -> tuple[Any, ...]:
    told = {name: value for name, value in env.items() if name not in _THEIRS}
    return (os.getpid(), told, Path.cwd(), os.sched_getaffinity(0))


def _end(control: socket.socket, process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End a server; what it forked lives on until it is told to end."""
    control.close()
    if os.getpid() == owner:  # not in a copy of that process
        process.kill()
        process.wait()


def main(modules: Sequence[str]) -> None:
    """Import, then fork as often as asked, until whoever asks has ended."""
    import numpy as np

    from runtime import engines, worker

    engines.silence()
    # of libraries' insides; and, of a fork, Python's own of numpy's threads, which bear it
    with warnings.catch_warnings(), socket.socket(fileno=os.dup(0)) as control:
        warnings.simplefilter("ignore")
        imported(modules)
        gc.collect()
        gc.freeze()
        memory_bytes = _serve(control)
    if memory_bytes is None:
        return
    np.random.seed()  # all would draw the same
    try:
        worker.main(memory_bytes)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def imported(modules: Sequence[str]) -> None:
    """Import what can be imported; of what cannot, the process that needs it will say so."""
    for place in modules:
        module, _, function = place.partition(":")
        with contextlib.suppress(Exception):
            found = importlib.import_module(module)
            if function:
                getattr(found, function)()


def _serve(control: socket.socket) -> int | None:
    """Answer until nobody asks any more: None. In each process that is forked: the memory that it may take."""
    while True:
        message, files, _, _ = socket.recv_fds(control, _ASK.size, 3)
        if not message:
            return None
        what, number = _ASK.unpack(message)
        if what == WAIT:
            pid, status = os.waitpid(number, os.WNOHANG)
            control.send(_ANSWER.pack(status if pid else ALIVE))
            continue
        pid = os.fork()
        for standard, file in enumerate(files):
            if not pid:
                os.dup2(file, standard)
            os.close(file)
        if not pid:
            os.setsid()
            return int(number)
        control.send(_ANSWER.pack(pid))


if __name__ == "__main__":
    main(sys.argv[1:])
