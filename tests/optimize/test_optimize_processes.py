"""A whole `optimize run` on two CPU processes of `accelerate launch`: they train together, the first does the rest."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from runtime.cache import Cache

pytest.importorskip("accelerate", reason="pip install 'edge-optimize[all]'")
ROOT = Path(__file__).parents[2]

MODEL = """
import torch
from torch import nn


def build():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )
"""
RECIPE = """
[model]
entry = "model.py:build"

[model.inputs.image]
shape = ["batch", 3, 8, 8]

[data]
path = "data.npz"
metric = "accuracy"

[[steps]]
use = "prune_channels"
ratio = 0.5
multiple = 1
iterations = 2
recover = { epochs = 1, batch = 16 }

[[steps]]
use = "recover"
epochs = 2
batch = 16

[targets.onnxruntime]

[constraints]
max_drop = 1.0

[measure]
budget = 1
"""
# as the steps' own test has it: accelerate starts a second CPU process only so
LAUNCH = (
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    "--num_cpu_threads_per_process", "1", "-m", "optimize",
)  # fmt: skip


@pytest.fixture
def launched(tmp_path, tiny_data):
    """Runs `optimize` on a recipe with these replacements; its process, ended."""
    x, y = tiny_data
    (tmp_path / "model.py").write_text(MODEL)
    np.savez(tmp_path / "data.npz", x=x, y=y)

    def run(*changed):
        text = RECIPE
        for old, new in changed:
            text = text.replace(old, new)
        (tmp_path / "recipe.toml").write_text(text)
        return subprocess.run(
            [*LAUNCH, "run", "recipe.toml", "--out", "out"], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            check=False,
            env={
                **os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT),
                "OPTIMIZE_CACHE": str(tmp_path / "cache"),
            },
        )  # fmt: skip

    return run


def steps_of(folder):
    report = json.loads((folder / "out" / "report.json").read_text())
    row = next(row for row in report["candidates"] if row["name"] == "onnxruntime-pruned-recovered")
    assert row["status"] == "measured"
    return {one["use"]: one for one in row["made"]}


def test_a_run_trains_in_all_processes_and_measures_in_one(launched, tmp_path):
    done = launched()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Measured on") == 1, "one process reports"
    made = steps_of(tmp_path)
    assert "in 2 processes" in " ".join(made["recover"]["notes"])
    assert "in 2 processes" in " ".join(made["prune_channels"]["notes"])
    assert (tmp_path / "out" / "bundle" / "manifest.json").exists()

    (tmp_path / "broken.py").write_text("def flip(feeds, random):\n    raise ValueError('on purpose')\n")
    again = launched(("epochs = 2", 'epochs = 2\naugment = "broken.py:flip"'))
    assert again.returncode == 0, again.stderr[-3000:]
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "report.json").read_text())["candidates"]}
    lost = rows["onnxruntime-pruned-recovered"]
    assert (lost["status"], rows["onnxruntime-fp32"]["status"]) == ("failed", "measured"), (
        "it costs its candidate alone"
    )
    assert "recover' after prune_channels" in lost["reason"] and "on purpose" in lost["reason"]
    used = Counter(facts["use"] for _, facts, _, _ in Cache(tmp_path / "cache").entries())
    assert used["prune_channels"] == used["recover"] == 1, "the second one heard that the pruned one is known"
