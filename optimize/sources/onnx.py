"""An ONNX file as it is; the original runs it on ONNX Runtime with its defaults.

A file whose weights lie elsewhere than in `<name>.data`, or of an opset that ONNX Runtime has not, is written anew.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
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
from runtime.listing import unknown
from runtime.tensors import Array, TensorSpec

log = logging.getLogger(__name__)

RUN_FROM = 7  # ONNX Runtime promises to run opsets from this one on
RAISED_ERROR = 1e-4  # relative
# of ONNX and of ONNX Runtime itself; other domains are in libraries of custom ops, or the file's own functions
_DOMAINS = {
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc",
    "com.ms.internal.nhwc", "com.microsoft.experimental",
}  # fmt: skip

GIVES = OnnxModel
FORKABLE = ("optimize.sources.onnx", "onnx", "onnxruntime")


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
    fixed = constants(spec.fixed, model.specs.inputs)

    def open_() -> Session:
        session = _open(model, options)
        return Fixed(session, fixed) if fixed else session

    return Original(model.path, _asked(model.specs.inputs, spec), open_, notes)


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


def constants(fixed: Mapping[str, float], inputs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """The arrays that inputs always get.

    Raises:
        InputError: there is no such input, or its shape is open, or its dtype has not this number.
    """
    known = {spec.name: spec for spec in inputs}
    found = {}
    for name, value in fixed.items():
        if name not in known:
            raise InputError(unknown("input to fix", name, known))
        spec = known[name]
        if not all(isinstance(size, int) for size in spec.shape):
            raise InputError(f"the input {spec} cannot be fixed at {value:g}: its shape is open.")
        array = np.full(spec.sized({}), value).astype(spec.dtype)
        if not np.array_equal(array.astype(np.float64), np.full(array.shape, float(value))) and array.dtype.kind != "f":
            raise InputError(f"the input {spec} cannot be fixed at {value:g}.")
        found[name] = array
    return found


def _asked(inputs: tuple[TensorSpec, ...], spec: ModelSpec) -> tuple[TensorSpec, ...]:
    """The inputs that are left, their open axes as the user has them, states last.

    Raises:
        InputError: the user has an input that the file has not, or of another dtype or shape.
    """
    given = {one.name: one for one in spec.inputs}
    if odd := given.keys() - {one.name for one in inputs}:
        raise InputError(unknown("input of the file", sorted(odd)[0], [one.name for one in inputs]))
    found = []
    for one in inputs:
        asked = given.get(one.name, one)
        fits = len(asked.shape) == len(one.shape) and asked.dtype == one.dtype
        if not fits or any(isinstance(a, int) and a != b for a, b in zip(one.shape, asked.shape, strict=True)):
            raise InputError(
                f"{spec.place} takes {one}; [model.inputs] may name or fix its open axes, and has {asked}."
            )
        found.append(replace(one, shape=asked.shape))
    left = [one for one in found if one.name not in spec.fixed]
    return tuple(sorted(left, key=lambda one: one.name in spec.states))


class Fixed:
    """A session some of whose inputs always get the same."""

    def __init__(self, session: Session, fixed: Mapping[str, Array]) -> None:
        self._session, self._fixed = session, fixed
        self.threads = session.threads

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        return self._session.run({**feeds, **self._fixed}, out)

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """See `runtime.engines.Session`."""
        return self._session.inside({**feeds, **self._fixed})

    def precision(self) -> Mapping[str, int]:
        """See `runtime.engines.Session`."""
        return self._session.precision()

    def close(self) -> None:
        """See `runtime.engines.Session`."""
        self._session.close()
