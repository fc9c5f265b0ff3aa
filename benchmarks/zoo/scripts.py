"""Where the zoo's models and data lie: the folder named by the environment variable ZOO."""

import importlib.util
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

SAMPLES = 16  # pictures a batch, decoded as they are asked for


def folder() -> Path:
    path = Path(os.environ.get("ZOO", ""))
    if not os.environ.get("ZOO") or not (path / "common.py").exists():
        raise FileNotFoundError(f"set ZOO to the folder of the zoo (its common.py is not in '{path}')")
    return path


@cache
def script(model: str) -> ModuleType:
    """A model's load_and_eval.py, which has its architecture and its preprocessing."""
    file = folder() / model / "load_and_eval.py"
    spec = importlib.util.spec_from_file_location(f"zoo_{model}", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def pictures(files, preprocess, dtype=np.float32):
    """A stream of (x, y) over (path, class) pairs."""

    def batches():
        for start in range(0, len(files), SAMPLES):
            paths, labels = zip(*files[start : start + SAMPLES], strict=True)
            with ThreadPoolExecutor() as pool:
                yield np.stack(list(pool.map(preprocess, paths))).astype(dtype), np.array(labels)

    return batches


def imagenet(model: str, dtype=np.float32):
    """The zoo's splits of the ImageNet sample: 200, 300 and 500 pictures."""
    module = script(model)
    files = module.common.imagenet_files()
    order = np.random.default_rng(0).permutation(len(files))
    parts = {"calibrate": order[:200], "validate": order[200:500], "test": order[500:]}
    return {name: pictures([files[i] for i in rows], module.preprocess, dtype) for name, rows in parts.items()}
