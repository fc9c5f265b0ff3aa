"""How much memory does calibrating take? `quantize_static` over streamed pictures of 224 x 224, each method in turn.

    python benchmarks/calibration_memory.py [--quick] [--json FILE]

A MobileNet-shaped network with random weights; the pictures are made as they are asked for, so that none is held. Each
row is a process of its own: the most memory that it held, above the same process with the model loaded and run once.
`--quick`: 200 pictures in place of 10,000.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from runtime import host
from runtime.tensors import Array
from runtime.worker import peak_memory

SAMPLES, QUICK = 10_000, 200
LIMIT_GB = 1.5
Passes = Callable[[], Iterator[tuple[dict[str, Array], None]]]
METHODS: tuple[dict[str, Any], ...] = (
    {"calibration": "minmax"}, {"calibration": "percentile"}, {"calibration": "entropy"}, {"method": "nncf"},
)  # fmt: skip


def network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers, wide = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU()], 16
    for out, stride in ((32, 1), (64, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (256, 2)):
        layers += [nn.Conv2d(wide, wide, 3, stride, 1, groups=wide), nn.ReLU(), nn.Conv2d(wide, out, 1), nn.ReLU()]
        wide = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 100)).eval()


def pictures(samples: int, size: int = 16) -> Passes:
    """Smooth ones, no two alike."""

    def passes() -> Iterator[tuple[dict[str, Array], None]]:
        random = np.random.default_rng(0)
        for start in range(0, samples, size):
            coarse = random.standard_normal((min(size, samples - start), 3, 14, 14)).astype(np.float32)
            yield {"image": np.ascontiguousarray(coarse.repeat(16, 2).repeat(16, 3))}, None

    return passes


def child(folder: str, samples: int, settings: dict[str, Any]) -> None:
    """In a process of its own: peak memory before and after the step, in bytes, and its seconds."""
    import targets
    from optimize.data import Split
    from optimize.models import read_onnx
    from optimize.steps import Context
    from optimize.steps.quantize_static import Step
    from optimize.verify import judge

    model = read_onnx(Path(folder) / "model.onnx")
    split = Split("calibrate", pictures(samples))
    judge(model).run(split.take(16)[0])
    before, begun = peak_memory(), time.monotonic()
    with tempfile.TemporaryDirectory() as inner:
        scheme = targets.get("onnxruntime").scheme("host", host.facts())
        context = Context(split, {"batch": {"min": 1, "best": 1, "max": 16}}, scheme, Path(inner))
        Step(samples=samples, **settings)(model, context)
    peak = peak_memory()
    print(json.dumps({"before": before, "peak": peak, "seconds": time.monotonic() - begun}))


def exported(folder: Path) -> None:
    from optimize.data import Split
    from optimize.models import TorchModel
    from optimize.steps import Context
    from optimize.steps.export import Step as Export
    from optimize.steps.simplify import Step as Simplify
    from runtime.tensors import TensorSpec
    from targets import Scheme

    axes = {"batch": {"min": 1, "best": 1, "max": 16}}
    context = Context(Split("calibrate", pictures(16)), axes, Scheme(ops=()), folder / "export")
    context.folder.mkdir()
    model = TorchModel(network(), (TensorSpec("image", "float32", ("batch", 3, 224, 224)),))
    Simplify()(Export()(model, context), Context(context.calibrate, axes, context.scheme, folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.child[0], int(asked.child[1]), json.loads(asked.child[2]))
        return
    samples, rows = QUICK if asked.quick else SAMPLES, []
    with tempfile.TemporaryDirectory() as name:
        exported(Path(name))
        for settings in METHODS:
            command = [sys.executable, __file__, "--child", name, str(samples), json.dumps(settings)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.strip().splitlines()[-1])
            extra = (found["peak"] - found["before"]) / 1e9
            method = " ".join(settings.values())
            rows.append({"method": method, "samples": samples, "extra_gb": extra, "seconds": found["seconds"]})
            print(f"{method:12} {samples:6} pictures  {extra:5.2f} GB above the model  {found['seconds']:6.0f} s")
    print(f"limit {LIMIT_GB} GB: {'held' if all(row['extra_gb'] < LIMIT_GB for row in rows) else 'NOT held'}")
    if asked.json:
        asked.json.write_text(json.dumps({"machine": host.facts().to_json(), "limit_gb": LIMIT_GB, "rows": rows}))


if __name__ == "__main__":
    main()
