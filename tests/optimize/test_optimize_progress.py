import io

import pytest

from optimize import progress
from optimize.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_a_line_for_each_stage_and_thing(clock):
    stream = io.StringIO()
    shown = Progress(3, stream)
    shown.stage("make")
    clock[0] = 65
    shown.say("export")
    shown.say("export")
    shown.stage("measure")
    shown.close()
    assert stream.getvalue().splitlines() == [" 0:00 [1/3] make", " 1:05 [1/3] make: export", " 1:05 [2/3] measure"]


def test_a_pipe_is_not_flooded_by_counts(clock):
    stream = io.StringIO()
    shown = Progress(1, stream)
    shown.stage("measure")
    for i in range(1, 101):
        clock[0] = i
        shown.count(i, 100, "round")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 21 and lines[1].endswith("measure: 5 of 100, about 1:35 left: round")
    assert lines[-1].endswith("measure: 100 of 100, about 0:00 left: round")


def test_the_time_left_is_that_of_the_stage(clock):
    stream = io.StringIO()
    shown = Progress(2, stream)
    clock[0] = 1000
    shown.stage("measure")
    clock[0] = 1010
    shown.count(1, 4)
    assert "1 of 4, about 0:30 left" in stream.getvalue()


def test_nothing_is_guessed_before_the_first_is_done(clock):
    stream = io.StringIO()
    shown = Progress(1, stream)
    clock[0] = 10
    shown.count(0, 4)
    shown.count(5, 4)
    assert "left" not in stream.getvalue() and "0 of 4" in stream.getvalue()


def test_a_terminal_has_one_line_that_fits_and_is_cleared(clock):
    stream = Terminal()
    shown = Progress(1, stream)
    shown.stage("make")
    shown.say("x" * 200)
    shown.close()
    first, second, last = stream.getvalue().removeprefix("\r\x1b[K").split("\r\x1b[K")
    assert first == " 0:00 [1/1] make" and len(second) == progress.WIDTH and second.endswith("…") and last == ""
    assert "\n" not in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_silent_writes_nothing(kind):
    stream = kind()
    shown = Progress(1, stream, silent=True)
    shown.stage("make")
    shown.count(1, 2)
    shown.close()
    assert stream.getvalue() == ""


def test_the_time_left_begins_anew_with_each_thing(clock):
    stream = io.StringIO()
    shown = Progress(1, stream)
    shown.stage("make")
    clock[0] = 1000
    shown.say("recover")
    clock[0] = 1010
    shown.count(10, 100, "a")
    assert "10 of 100, about 1:30 left" in stream.getvalue()
    clock[0] = 2000
    shown.count(1, 4, "b")
    assert "1 of 4: b" in stream.getvalue(), "another count, of which nothing is known yet"
    clock[0] = 2010
    shown.count(2, 4, "b")
    assert "2 of 4, about 0:20 left: b" in stream.getvalue()
