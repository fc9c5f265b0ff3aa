"""Does a loaded model leak: 200,000 calls of each engine, and the slope of its resident memory.

    python benchmarks/soak.py [--quick] [--json FILE]

The digits model, each engine in a process of its own, in turn direct calls, submitted ones and batches. The first tenth
is dropped: allocators fill their arenas. The slope is Theil and Sen's (the median over pairs of samples), with the
interval of Kendall's tau (Sen 1968, JASA 63), so that one jump of an allocator is no slope.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from runtime_overhead import OPTIONS, bundled

import runtime
from runtime import contender, host

SAMPLES = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 calls")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    calls = 20_000 if options.quick else 200_000
    found: dict[str, Any] = {"machine": host.facts().to_json(), "calls": calls, "engines": {}}
    print(f"{'engine':12}  {'MiB first':>9}  {'MiB last':>8}  {'bytes a call':>12}  interval")
    with tempfile.TemporaryDirectory() as folder:
        for name in OPTIONS:
            bundle, _ = bundled(Path(folder), name)
            row = contender.call("soak:soaked", bundle=str(bundle), calls=calls)
            found["engines"][name] = row
            print(
                f"{name:12}  {row['first_bytes'] / 2**20:9.1f}  {row['last_bytes'] / 2**20:8.1f}  "
                f"{row['bytes_a_call']:12.3f}  {row['low']:.3f} to {row['high']:.3f}", flush=True,
            )  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def soaked(bundle: str, calls: int) -> dict[str, float]:
    """For a process of its own: resident memory over the calls."""
    from scipy.stats import theilslopes

    from runtime.worker import _resident

    block = calls // SAMPLES
    at, bytes_ = [], []
    with runtime.load(bundle, streams=2) as model:
        spec = model.inputs[0]
        x = np.random.default_rng(0).standard_normal(spec.sized({})).astype(spec.dtype)
        for turn in range(SAMPLES):
            if turn % 10 == 8:
                for future in [model.submit(x) for _ in range(block)]:
                    future.result()
            elif turn % 10 == 9:
                for _ in model.map((x for _ in range(block)), batch=4):
                    pass
            else:
                for _ in range(block):
                    model(x)
            at.append((turn + 1) * block)
            bytes_.append(_resident("VmRSS:"))
    kept = SAMPLES // 10
    slope, _, low, high = theilslopes(bytes_[kept:], at[kept:], 0.95)
    return {
        "first_bytes": bytes_[kept], "last_bytes": bytes_[-1], "bytes_a_call": float(slope), "low": float(low),
        "high": float(high),
    }  # fmt: skip


if __name__ == "__main__":
    # the process that soaks finds this file by it
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    sys.exit(main())
