"""The README's commands, run as they stand there, but for pip and pytest."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BUNDLES = (REPOSITORY / "docs" / "bundle.md").read_text(encoding="utf-8")

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
    )
"""
DATA = """
import numpy as np


def splits():
    with np.load("data.npz") as file:
        return file["x"], file["y"]
"""


def commands(page: str = README) -> list[str]:
    """Every line of a page's shell blocks, in order, without comments, pip and pytest."""
    found = []
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        for line in block.splitlines():
            for part in line.split("#")[0].split("&&"):
                part = part.strip()
                if part and not part.startswith(("pip ", "pytest")):
                    found.append(part)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the README's reader has: a clone's examples, and a model and data of their own."""
    torch = pytest.importorskip("torch", reason="pip install 'edge-optimize[all]'")
    folder = tmp_path_factory.mktemp("reader")
    (folder / "examples").symlink_to(REPOSITORY / "optimize" / "examples")
    (folder / "model.py").write_text(MODEL)
    (folder / "data.py").write_text(DATA)
    scope: dict = {}
    exec(MODEL, scope)
    module = scope["build"]().eval()
    torch.save(module.state_dict(), folder / "weights.pth")
    x = np.random.default_rng(0).standard_normal((200, 1, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        y = module(torch.from_numpy(x)).argmax(1).numpy()
    np.savez(folder / "data.npz", x=x, y=y)
    run("optimize export model.py:build --weights weights.pth --data data.npz", folder)
    return folder


def run(command: str, folder: Path) -> str:
    words = [sys.executable, "-m", *command.split()] if command.startswith("optimize ") else command.split()
    if words[0] == "python":
        words[0] = sys.executable
    words = [word.strip('"') for word in words]
    if command.startswith("optimize run"):
        words += ["--set", "measure.budget=1"]  # the same way, with no more than the eight rounds
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    # 1: done, but a constraint is not met; a random network's classes are close to each other
    assert done.returncode in ((0, 1) if command.startswith("optimize run") else (0,)), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


def test_the_two_commands_come_first():
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert blocks[0].splitlines() == [
        'pip install -e ".[all]" && optimize demo',
        'pip install -e ".[all,test]" && pytest',
    ]


def test_commands_run_in_order(place):
    """`optimize demo` is the first; the ones after it use what it wrote."""
    listed = commands()
    assert listed[0] == "optimize demo"
    for command in listed:
        output = run(command, place)
        if command == "optimize demo":
            assert "optimize-demo/bundle" in output
            assert "CANNOT BUILD HERE: tensorrt" in output
            assert output.index("CANNOT BUILD HERE") < output.index("candidate")
            assert 'model = runtime.load("optimize-demo/bundle")' in output

    for command in commands(BUNDLES):
        run(command, place)
    assert '"golden_off_by": 0' in run("python -m runtime check optimize-demo/bundle --json", place)
    for page, more in (
        (README, "print(model(np.zeros((1, 1, 32, 32), np.float32)).shape)"),
        (BUNDLES, "print('(1, 10)')"),
    ):
        snippet = re.search(r"```python\n(.*?)```", page, re.DOTALL)
        assert snippet
        code = f"{snippet[1]}\nimport numpy as np\n{more}"
        done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
        assert done.stdout.splitlines()[-1] == "(1, 10)", done.stderr
