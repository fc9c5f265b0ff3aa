"""An ONNX file as it is; the original runs it on ONNX Runtime with its defaults.

A file whose weights lie elsewhere than in `<name>.data`, or of an opset that ONNX Runtime has not, is written anew.
"""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from optimize.models import OnnxModel, external, nodes, read_onnx, write_onnx
from optimize.sources import ModelSpec, Original
from runtime import engines
from runtime.cache import address, digest, made
from runtime.engines import Session, relative_error
from runtime.errors import EngineError, InputError
from runtime.host import facts, versions

log = logging.getLogger(__name__)

RUN_FROM = 7  # ONNX Runtime promises to run opsets from this one on
RAISED_ERROR = 1e-4  # relative
# of ONNX and of ONNX Runtime itself; other domains are in libraries of custom ops, or the file's own functions
_DOMAINS = {
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc",
    "com.ms.internal.nhwc", "com.microsoft.experimental",
}  # fmt: skip


def claims(place: str) -> bool:
    """A path that ends in .onnx."""
    return place.endswith(".onnx")


def load(spec: ModelSpec) -> Original:
    """Read its inputs and outputs; the file is copied only where it must be written anew.

    Raises:
        InputError: as `read_onnx`, or an op of a domain that nothing here has.
    """
    if spec.weights:
        raise InputError(f"{spec.place} holds its own weights; leave out {spec.weights}.")
    model, notes = _ready(read_onnx(Path(spec.place)))
    options = {"threads": spec.threads} if spec.threads else {}
    return Original(model.path, model.specs.inputs, partial(_open, model, options), notes)


def _open(model: OnnxModel, options: Mapping[str, Any], engine: str = "onnxruntime") -> Session:
    return engines.get(engine).open({"model": model.path}, model.specs, facts(), options)


def _ready(model: OnnxModel) -> tuple[OnnxModel, tuple[str, ...]]:
    """The model as steps and engines can take it, and what was done to it."""
    import onnx

    proto = onnx.load(model.path, load_external_data=False)
    _refuse_foreign(proto, model.path)
    beside = external(proto)
    # a file of trees may have ops of another domain alone
    opset = max((int(one.version) for one in proto.opset_import if one.domain in ("", "ai.onnx")), default=RUN_FROM)
    old = opset if opset < RUN_FROM and not _runs(model) else 0
    if not old and not beside.keys() - {f"{model.path.name}.data"}:
        return model, ()
    files = [model.path, *(model.path.parent / place for place in beside)]
    name = address(source="onnx", given=digest(files), opset=RUN_FROM if old else None, versions=versions(("onnx",)))

    def make(folder: Path) -> Mapping[str, Any]:
        whole = onnx.load(model.path)
        write_onnx(_raised(whole, model) if old else whole, folder / model.path.name)
        return {}

    found = read_onnx(made(name, "an ONNX file written anew", make).folder / model.path.name)
    if not old:
        return found, ()
    return found, (f"raised from opset {old} to {RUN_FROM}, {_compared(found, model)}",)


def _refuse_foreign(proto: Any, path: Path) -> None:
    """Raise InputError for an op of a domain that is neither ONNX's, nor ONNX Runtime's, nor the file's own."""
    own = {function.domain for function in proto.functions}
    for node in nodes(proto):
        if node.domain not in _DOMAINS | own:
            raise InputError(
                f"{path} has the op {node.op_type} of the domain '{node.domain}' "
                f"(node '{node.name or node.output[0]}'), which is no op of ONNX "
                "and is not in the file: export the model without it, or with it as a function."
            )


def _runs(model: OnnxModel) -> bool:
    try:
        _open(model, {}).close()
    except EngineError:
        log.info("%s is not run as it is", model.path, exc_info=True)
        return False
    return True


def _raised(proto: Any, model: OnnxModel) -> Any:
    """By onnx's converter, to the oldest opset that is run."""
    from onnx import version_converter

    proto.ir_version = max(proto.ir_version, 4)  # before it, a weight had to be an input too
    try:
        return version_converter.convert_version(proto, RUN_FROM)
    except Exception as error:  # it raises whatever the first op that it cannot convert raises
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"{model.path} is of an opset that ONNX Runtime does not run, and onnx cannot raise it to {RUN_FROM} "
            f"({words}): export the model anew."
        ) from error


def _compared(found: OnnxModel, model: OnnxModel) -> str:
    """How the raised file compares with the one given, on random numbers, in onnx's evaluator; raises InputError."""
    random = np.random.default_rng(0)
    feeds = {spec.name: random.standard_normal(spec.sized({})).astype(spec.dtype) for spec in model.specs.inputs}
    try:
        wanted = _open(model, {}, "reference").run(feeds)
    except EngineError as error:
        return f"not compared, since nothing here runs it as it was ({error})"
    off, name = relative_error(_open(found, {}).run(feeds), wanted)
    if not off <= RAISED_ERROR:
        raise InputError(f"{model.path}: onnx raised its opset, and the output '{name}' then differs by {off:.2g}.")
    return "compared with itself as it was on random numbers"
