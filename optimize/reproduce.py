"""Keep what a candidate failed on: its ONNX file and a script that shows the failure again, without the rest."""

import shutil
from pathlib import Path

from optimize.models import OnnxModel
from optimize.plan import Candidate
from runtime.engines import onnx_files

_SCRIPT = '''"""{name} {status}: {reason}

Run it where edge-optimize is installed: python reproduce.py
It compiles model.onnx beside it and calls the engine once, each in a process of its own.
"""

from pathlib import Path

import numpy as np

from runtime import contender
from runtime.contender import Contender, Worker

HERE = Path(__file__).parent
ENGINE, OPTIONS, SPECS = {engine!r}, {options!r}, {specs!r}

if __name__ == "__main__":
    files = contender.call(
        "runtime.worker:compile_engine", HERE / "log.txt",
        engine=ENGINE, onnx=str(HERE / "{file}"), out=str(HERE / "engine"), options=OPTIONS,
    )
    print("compiled:", files)
    arguments = {{"engine": ENGINE, "files": files, "specs": SPECS, "options": OPTIONS}}
    feeds = {{
        spec["name"]: np.ones([size if isinstance(size, int) else 1 for size in spec["shape"]], spec["dtype"])
        for spec in SPECS["inputs"]
    }}
    with Worker.start(Contender(ENGINE, "runtime.worker:open_engine", arguments), feeds, HERE / "log.txt") as worker:
        print("answered:", {{name: (value.shape, np.isfinite(value).all()) for name, value in worker.outputs.items()}})
'''


def keep(folder: Path, candidate: Candidate, model: OnnxModel, status: str, reason: str) -> Path:
    """Write `folder/<candidate>/` with the ONNX file and reproduce.py; returns the script."""
    place = folder / candidate.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for part in onnx_files(model.path).values():
        shutil.copyfile(part, place / part.name)
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
