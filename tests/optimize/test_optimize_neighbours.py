import subprocess
import sys
import time

from optimize.neighbours import Neighbours


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
