"""Progress: what is being done and how long it will take, on a terminal as one line, in a pipe as lines.

Nothing is drawn by a thread of its own: it would run beside what is being measured.
"""

import sys
import time
from typing import TextIO

WIDTH = 100
QUIET_S = 5.0  # between lines in a pipe, where only the count has changed


class Progress:
    """Stages in order, each with things to do."""

    def __init__(self, stages: int, stream: TextIO | None = None, silent: bool = False) -> None:
        self._stages = stages
        self._stream = stream or sys.stderr
        self._silent = silent
        self._terminal = self._stream.isatty()
        self._stage = 0
        self._title = ""
        self._begun = self._counting = time.monotonic()
        self._first = self._done = 0
        self._said_at = 0.0
        self._last = ""

    def stage(self, title: str) -> None:
        """Begin the next stage."""
        self._stage += 1
        self._title = title
        self._recount()
        self._write("", always=True)

    def say(self, what: str) -> None:
        """What is being done now."""
        self._recount()
        self._write(what, always=True)

    def count(self, done: int, total: int, what: str = "") -> None:
        """So many of so many are done; the time left is that of what `say` or `stage` began."""
        if done < self._done:  # another thing is counted
            self._recount(done)
        self._done, left = done, ""
        if self._first < done <= total:
            seconds = (time.monotonic() - self._counting) / (done - self._first) * (total - done)
            left = f", about {_time(seconds)} left"
        self._write(f"{done} of {total}{left}{': ' + what if what else ''}", always=done == total)

    def _recount(self, done: int = 0) -> None:
        self._counting, self._first, self._done = time.monotonic(), done, done

    def close(self) -> None:
        """Clear the terminal's line."""
        if self._terminal and not self._silent:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write(self, what: str, always: bool) -> None:
        if self._silent:
            return
        now = time.monotonic()
        text = f"[{self._stage}/{self._stages}] {self._title}{': ' + what if what else ''}"
        if self._terminal:
            line = f"{_time(now - self._begun):>5} {text}"
            self._stream.write("\r\x1b[K" + (line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"))
        elif (always or now - self._said_at >= QUIET_S) and text != self._last:
            self._stream.write(f"{_time(now - self._begun):>5} {text}\n")
            self._said_at, self._last = now, text
        self._stream.flush()


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
