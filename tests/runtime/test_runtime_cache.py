"""The cache of results: addresses, damage, kills, and two runs at once."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from runtime import cache as module
from runtime.cache import Cache, address, default_folder
from runtime.errors import StepError


def keep(cache, name, text="result"):
    with cache.making(name) as room:
        if (found := cache.get(name)) is not None:
            return found
        (room / "made").mkdir()
        (room / "made" / "model.onnx").write_text(text)
        return cache.put(name, room / "made", {"use": "export", "seconds": 1.5})


def test_what_was_kept_is_found_with_its_facts(tmp_path):
    cache = Cache(tmp_path / "cache")
    assert cache.get("a") is None
    keep(cache, "a")
    found = cache.get("a")
    assert (found.folder / "model.onnx").read_text() == "result" and found.facts == {"use": "export", "seconds": 1.5}
    assert sorted(path.name for path in cache.folder.iterdir()) == ["a"]  # no lock, no room


@pytest.mark.parametrize("damage", ["other", "", None])
def test_a_damaged_entry_is_made_anew(tmp_path, damage):
    cache = Cache(tmp_path)
    file = keep(cache, "a").folder / "model.onnx"
    file.unlink()
    if damage is not None:
        file.write_text(damage)
    assert cache.get("a") is None and not (tmp_path / "a").exists()
    assert keep(cache, "a", "again").folder.joinpath("model.onnx").read_text() == "again"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": {"model.onnx": 3}, "facts": {}}', '{"facts": {}}'])
def test_a_damaged_manifest_is_no_entry(tmp_path, text):
    cache = Cache(tmp_path)
    (keep(cache, "a").folder / "entry.json").write_text(text)
    assert cache.get("a") is None


def test_addresses_follow_every_part():
    parts = {"given": "g", "settings": {"samples": 3}, "versions": {"onnx": "1"}, "data": {"calibrate": "d"}}
    first = address(**parts)
    assert first == address(**dict(reversed(parts.items())))
    for change in ({"given": "h"}, {"settings": {"samples": 4}}, {"versions": {"onnx": "2"}}, {"data": {}}):
        assert address(**{**parts, **change}) != first


def test_a_failure_leaves_nothing_and_an_interrupt_leaves_the_room(tmp_path):
    cache = Cache(tmp_path)
    with pytest.raises(StepError), cache.making("a") as room:
        (room / "checkpoint").write_text("1")
        raise StepError("it failed")
    assert not list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), cache.making("a") as room:
        (room / "checkpoint").write_text("2")
        raise KeyboardInterrupt
    with cache.making("a") as room:
        assert (room / "checkpoint").read_text() == "2"


MAKER = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from test_runtime_cache import keep
    from runtime.cache import Cache
    cache = Cache(Path({folder!r}))
    with cache.making("a") as room:
        if cache.get("a") is None:
            with open({count!r}, "a") as file:
                file.write("made\\n")
            (room / "checkpoint").write_text("half")
            print("in", flush=True)
            time.sleep({seconds})
            (room / "made").mkdir(exist_ok=True)
            (room / "made" / "model.onnx").write_text("result")
            cache.put("a", room / "made", {{}})
"""


def start(tmp_path, seconds):
    places = {"tests": str(Path(__file__).parent), "folder": str(tmp_path / "cache"), "count": str(tmp_path / "count")}
    code = textwrap.dedent(MAKER.format(**places, seconds=seconds))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_two_at_once_make_it_once(tmp_path):
    running = [start(tmp_path, 0.5), start(tmp_path, 0.5)]
    for process in running:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "count").read_text() == "made\n"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["a"]


def test_a_killed_run_leaves_its_room_and_no_lock(tmp_path):
    process = start(tmp_path, 60)
    assert process.stdout.readline() == "in\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    cache = Cache(tmp_path / "cache")
    assert cache.get("a") is None
    with cache.making("a") as room:  # it does not wait for the dead
        assert (room / "checkpoint").read_text() == "half"


def test_cleaning_keeps_what_was_used_last(tmp_path):
    cache = Cache(tmp_path)
    for index, name in enumerate("abc"):
        folder = keep(cache, name, name * 1000).folder
        os.utime(folder, (index, index))
    cache.get("a")  # now the latest
    sizes = {name: size for name, _, size, _ in cache.entries()}
    assert [name for name, *_ in cache.entries()] == ["a", "c", "b"]
    freed = cache.clean(sizes["a"] + sizes["c"])
    assert freed == sizes["b"] and sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]
    (tmp_path / ".unfinished-x").mkdir()
    cache.clean()
    assert not list(tmp_path.iterdir())


def test_cleaning_spares_what_is_being_made(tmp_path):
    process = start(tmp_path, 60)
    process.stdout.readline()
    Cache(tmp_path / "cache").clean()
    assert (tmp_path / "cache" / ".unfinished-a" / "checkpoint").exists()
    process.kill()
    process.communicate()


def test_the_folder_is_the_users_to_choose(monkeypatch, tmp_path):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("OPTIMIZE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "edge-optimize"


def test_entries_of_another_format_are_shown_as_damaged(tmp_path):
    cache = Cache(tmp_path)
    (keep(cache, "a").folder / "entry.json").write_text(json.dumps({"files": {}}))
    assert [facts for _, facts, _, _ in cache.entries()] == [{"use": "damaged"}]
    assert time.time() - cache.entries()[0][3] < 3600


def test_a_cache_of_a_newer_version_is_not_taken_up(monkeypatch, tmp_path):
    """Its entries have other addresses, and stay for the version that wrote them."""
    monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
    newer = address(step="a")
    (tmp_path / newer).mkdir()
    (tmp_path / newer / "entry.json").write_text('{"files": "of a kind that nobody knows yet"}')
    monkeypatch.undo()
    assert address(step="a") != newer and Cache(tmp_path).get(address(step="a")) is None
    assert (tmp_path / newer / "entry.json").exists()
