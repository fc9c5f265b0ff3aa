"""Keep what a candidate failed on: its ONNX file and a script that shows the failure again, without the rest."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optimize.models import OnnxModel
from optimize.plan import Candidate
from runtime.engines import onnx_files
from runtime.tensors import Array

_SCRIPT = '''"""{name} {status}: {reason}

Run it where edge-optimize is installed: python reproduce.py
It compiles {file} beside it, calls the engine on feeds.npz, each in a process of its own, and says how far its answers
are from those that the file means.
"""

from pathlib import Path

import numpy as np

from optimize.models import read_onnx
from optimize.verify import judge
from runtime import contender
from runtime.contender import Contender, Worker
from runtime.engines import relative_error

HERE = Path(__file__).parent
ENGINE, OPTIONS, SPECS = {engine!r}, {options!r}, {specs!r}

if __name__ == "__main__":
    files = contender.call(
        "runtime.worker:compile_engine", HERE / "log.txt",
        engine=ENGINE, onnx=str(HERE / "{file}"), out=str(HERE / "engine"), options=OPTIONS,
    )
    print("compiled:", files)
    arguments = {{"engine": ENGINE, "files": files, "specs": SPECS, "options": OPTIONS}}
    with np.load(HERE / "feeds.npz") as stored:
        feeds = dict(stored)
    with Worker.start(Contender(ENGINE, "runtime.worker:open_engine", arguments), feeds, HERE / "log.txt") as worker:
        answers = dict(worker.outputs)
    print("answered:", {{name: (value.shape, bool(np.isfinite(value).all())) for name, value in answers.items()}})
    error, name = relative_error(answers, judge(read_onnx(HERE / "{file}")).run(feeds))
    print(f"the output '{{name}}' differs from what {file} means by {{error:.2g}}, relative")
'''


def keep(
    folder: Path, candidate: Candidate, model: OnnxModel, status: str, reason: str, feeds: Mapping[str, Array]
) -> Path:  # fmt: skip
    """Write `folder/<candidate>/` with the ONNX file, the arrays of one call and reproduce.py; returns the script."""
    place = folder / candidate.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for part in onnx_files(model.path).values():
        shutil.copyfile(part, place / part.name)
    arrays: dict[str, Any] = dict(feeds)
    np.savez(place / "feeds.npz", **arrays)
    script = place / "reproduce.py"
    text = _SCRIPT.format(
        name=candidate.name,
        status=status,
        reason=reason.replace("\\", "/").replace('"""', "'''"),
        engine=candidate.target.engine,
        options=dict(candidate.options),
        specs=model.specs.to_json(),
        file=model.path.name,
    )
    script.write_text(text, encoding="utf-8")
    return script
