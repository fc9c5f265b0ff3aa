import subprocess
import sys
import time

from optimize.neighbours import Neighbours, _Used


def test_a_busy_process_of_another_is_named_with_its_share(tmp_path):
    """It is no child of ours: a shell starts it and ends."""
    busy = "import time; end = time.monotonic() + 4\nwhile time.monotonic() < end: pass"
    (tmp_path / "busy.py").write_text(busy)
    subprocess.run(f"nohup {sys.executable} busy.py >/dev/null 2>&1 &", shell=True, cwd=tmp_path, check=True)
    time.sleep(0.5)
    before = Neighbours.now()
    time.sleep(1.5)
    found = Neighbours.now().since(before)
    assert any("python" in one and "% of a core" in one and int(one.split("%")[0].split()[-1]) > 30 for one in found), (
        found
    )


def test_processes_that_come_and_go_are_seen_in_the_one_that_starts_them(tmp_path):
    burst = "import time; end = time.monotonic() + 0.3\nwhile time.monotonic() < end: pass"
    start = f"import subprocess, sys\nfor _ in range(20): subprocess.run([sys.executable, '-c', {burst!r}])"
    (tmp_path / "bursts.py").write_text(start)
    shell = f"nohup {sys.executable} bursts.py >/dev/null 2>&1 & echo $!"  # it is no child of ours
    pid = subprocess.run(shell, shell=True, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()
    time.sleep(0.5)
    before = Neighbours.now()
    time.sleep(3)
    found = Neighbours.now().since(before)
    (own,) = [one for one in found if f"(pid {pid})" in one]
    assert int(own.split("%")[0].split()[-1]) > 30, found


def test_what_a_process_spent_before_is_not_counted_once_it_ends():
    before = Neighbours(0.0, {(7, 1.0): _Used("sh", 1, 2.0), (8, 2.0): _Used("make", 7, 50.0),
                              (9, 3.0): _Used("cc", 8, 40.0)}, 0.0)  # fmt: skip
    # both ended: make was told of cc's 41 seconds, and the shell of all of make's
    after = Neighbours(10.0, {(7, 1.0): _Used("sh", 1, 2.0 + 52.0 + 41.0)}, 0.0)
    assert after.since(before) == ["sh (pid 7) 30% of a core"]
    assert Neighbours(10.0, {(7, 1.0): _Used("sh", 1, 2.0)}, 0.0).since(before) == []  # nobody waited for them


def test_what_we_do_ourselves_is_not_named():
    before = Neighbours.now()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(2)\nwhile True: pass"])
    try:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            pass
        found = Neighbours.now().since(before)
    finally:
        child.kill()
        child.wait()
    assert not [one for one in found if f"pid {child.pid})" in one]
