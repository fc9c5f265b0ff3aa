"""`optimize consistency`: one ONNX file on every engine library that is here, and answers that depend on company.

Each engine is compiled with its target's plain fp32 options, in a process of its own, twice. The yardstick is ONNX
Runtime with nothing fused, a sample a call where the batch is open.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import targets
from optimize.data import resized
from optimize.flags import random_feeds
from optimize.models import OnnxModel, read_onnx
from optimize.progress import Progress
from optimize.subject import read_data
from optimize.verify import judge
from runtime import bundle as bundles
from runtime import contender, engines
from runtime.bundle import sha256
from runtime.contender import Contender, Worker
from runtime.engines import relative_error
from runtime.errors import InputError, WorkError
from runtime.tensors import Array

SAMPLES = 64
SAME = 1e-3  # relative, from which on answers are said to differ


def consistency(place: str, data: str | None, samples: int = SAMPLES) -> dict[str, Any]:
    """The largest difference, the agreement of the best class, rows that depend on their neighbours, unequal builds.

    Args:
        place: an .onnx file, or a bundle, of which the plain file is taken.
        data: as everywhere; random numbers where there is none.
        samples: how many.

    Raises:
        InputError: there is no such file, or the data does not fit.
        WorkError: the file does not run where nothing is fused.
    """
    model = _model(Path(place))
    inputs = model.specs.inputs
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    size = first if isinstance(first, int) else samples
    progress = Progress(1)
    progress.stage("consistency")
    if data:
        feeds = resized(read_data(data, None, None, None, inputs, progress)[1].splits.test.take(size)[0], size)
    else:
        feeds = random_feeds(inputs, size)
    alone = judge(model)
    one_by_one = isinstance(first, str)
    wanted = _singly(alone.run, feeds, size) if one_by_one else alone.run(feeds)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        for name in targets.names():
            progress.say(name)
            rows[name] = _on(name, model, feeds, wanted, size if one_by_one else 0, Path(folder), log)
    progress.close()
    return {
        "file": str(model.path),
        "input": data or "random numbers, since no --data was given",
        "samples": size,
        "yardstick": f"ONNX Runtime, nothing fused, {'a sample a call' if one_by_one else f'a batch of {first}'}",
        "engines": rows,
        "differ": ", ".join(name for name, row in rows.items() if row.get("differs")) or "none",
    }


def _model(path: Path) -> OnnxModel:
    if path.is_dir() or path.suffix == ".zip":
        bundle = bundles.read(path)
        return OnnxModel(bundle.resolve(bundle.fallback.files)["model"], bundle.specs)
    if path.suffix != ".onnx":
        raise InputError(f"optimize consistency takes an .onnx file or a bundle; got '{path}'.")
    return read_onnx(path)


def _on(
    name: str, model: OnnxModel, feeds: Mapping[str, Array], wanted: Mapping[str, Array], size: int, folder: Path,
    log: Path,
) -> dict[str, Any]:  # fmt: skip
    target = targets.get(name)
    if lack := target.why_not():
        return {"runs_here": "no", "reason": lack}
    options = dict(target.plain)
    if target.profiles:
        open_axes = {axis for spec in model.specs.inputs for axis in spec.shape if isinstance(axis, str)}
        sizes = {axis: {"min": 1, "best": max(size, 1), "max": max(size, 1)} for axis in open_axes}
        options |= {"profiles": target.profiles(model.specs, sizes)}
    modules = engines.get(target.engine).FORKABLE
    try:
        builds = []
        for turn in range(2):
            files = contender.call(
                "runtime.worker:compile_engine", log, modules=modules, engine=target.engine, onnx=str(model.path),
                out=str(folder / f"{name}-{turn}"), options=options,
            )  # fmt: skip
            builds.append({role: Path(file) for role, file in files.items()})
        arguments = {
            "engine": target.engine, "specs": model.specs.to_json(), "options": options,
            "files": {role: str(file) for role, file in builds[0].items()},
        }  # fmt: skip
        opener = Contender(name, "runtime.worker:open_engine", arguments, modules=modules)
        with Worker.start(opener, feeds, log) as worker:
            together = dict(worker.outputs)
            singly = _singly(worker.run, feeds, size) if size else together
    except WorkError as error:
        return {"runs_here": "no", "reason": str(error)}
    off, output = relative_error(together, wanted, model.specs.decoding)
    company, _ = relative_error(together, singly, model.specs.decoding)
    differs = [
        words
        for words, yes in (
            (f"'{output}' differs from the yardstick by {off:.2g}", not off <= SAME),
            (f"a sample's answer depends on those beside it, by {company:.2g}", not company <= SAME),
        )
        if yes
    ]
    return {
        "runs_here": "yes",
        "relative_difference": off,
        "largest_difference": _largest(together, wanted),
        "agreement": _agreement(together, wanted),
        "batch_against_one_by_one": company if size else None,
        "two_builds": _builds(builds),
        "differs": "; ".join(differs),
    }


def _singly(run: Any, feeds: Mapping[str, Array], size: int) -> dict[str, Array]:
    """The outputs of a sample a call, put together again; an output that is no row a sample is left out."""
    found = [
        run({name: value[i : i + 1] if value.ndim and len(value) == size else value for name, value in feeds.items()})
        for i in range(size)
    ]
    rows = [name for name, value in found[0].items() if value.ndim and len(value) == 1]
    return {name: np.concatenate([one[name] for one in found]) for name in rows}


def _largest(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float | None:
    differences = [
        float(np.abs(got[name].astype(np.float64) - value.astype(np.float64)).max(initial=0))
        for name, value in wanted.items()
        if value.dtype.kind in "biuf" and got[name].shape == value.shape
    ]
    return max(differences, default=None)


def _agreement(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float | None:
    """Of the best class in the first output; None where it has no classes."""
    name = next(iter(wanted), "")
    if not name or wanted[name].ndim != 2 or wanted[name].shape[1] < 2 or got[name].shape != wanted[name].shape:
        return None
    return float((got[name].argmax(1) == wanted[name].argmax(1)).mean())


def _builds(builds: list[dict[str, Path]]) -> str:
    """Whether two builds of one file are the same bytes."""
    unlike = [role for role, file in builds[0].items() if sha256(file) != sha256(builds[1][role])]
    return f"differ in {', '.join(unlike)}" if unlike else "the same bytes"
