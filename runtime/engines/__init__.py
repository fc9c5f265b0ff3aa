"""One file an engine library, each with the same names; look-up lists this folder.

    DISTRIBUTION                          what pip installs, and the extra of the same name as the file
    TOLERANCE                             precision -> largest relative error against its own ONNX file
    OPTIONS                               name -> type of what `open` and `compile` may be given
    facts()                               -> its version here, and of a GPU's what `fitness.FACTS` has
    needs(options)                        -> of these, what a file compiled here takes elsewhere
    LOCAL                                 options of one machine: none is put into a bundle, nor taken from one
    FORKABLE                              what `open` imports, as `runtime.forkserver` takes it; nothing where that
                                          starts threads or opens a device, which do not bear a fork
    open(files, specs, host, options)     -> Session
    compile(onnx, out, options)           -> the engine's files by role

Options are a flat table of JSON values; what an engine does not know it refuses.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from runtime import listing
from runtime.decoding import Decoding
from runtime.errors import EngineError, EngineMissing, InputError
from runtime.host import Host
from runtime.tensors import Array, Specs

Options = Mapping[str, Any]

# ONNX Runtime from 1.29 on reports to its maker, and writes an identifier into the home, unless this is there before it
# loads (its pull request 27379).
SILENT = {"ORT_DISABLE_TELEMETRY": "1"}
# OpenVINO, as soon as it is imported, and NNCF report to their maker by it, and do without where there is none
REPORTER = "openvino_telemetry"


class Session(Protocol):
    """An engine, loaded and ready to run. `run` may be called from several threads at once."""

    threads: int
    """The threads that a call really uses."""

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name for inputs by name; where `out` names an array, the output is written there."""

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """A call of the library's own part: inputs lie where it takes them from, outputs stay where it leaves them."""

    def precision(self) -> Mapping[str, int]:
        """The number formats that truly run, each with the number of ops; empty where it cannot be read."""

    def close(self) -> None:
        """Give the memory back; a call after this is an error."""


@runtime_checkable
class Starting(Protocol):
    """What a session has whose library goes on with a call by itself, so that no thread need wait for it."""

    def begin(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Start a call of inputs by name; what is given back waits for its outputs, also after the session's end."""


class Engine(Protocol):
    """What each file here holds."""

    DISTRIBUTION: str
    TOLERANCE: Mapping[str, float]
    OPTIONS: Mapping[str, type]
    LOCAL: frozenset[str]
    FORKABLE: tuple[str, ...]

    def facts(self) -> dict[str, str]:
        """What the library is here: `version`, and for GPUs more of `fitness.FACTS`; raises EngineMissing."""

    def needs(self, options: Options) -> dict[str, dict[str, Any]]:
        """What a file that is compiled here needs where it is loaded, as `fitness.misfit` reads it."""

    def open(self, files: Mapping[str, Path], specs: Specs, host: Host, options: Options) -> Session:
        """Load an engine's files; raises EngineMissing, EngineError or InputError."""

    def compile(self, onnx: Path, out: Path, options: Options) -> dict[str, Path]:
        """Write an engine's files for an ONNX file into the folder `out`; raises as `open` does."""


def get(name: str) -> Engine:
    """The engine of this name.

    Raises:
        InputError: there is none.
    """
    return listing.get(__name__, name, "engine")


def names() -> list[str]:
    """All engines, installed or not."""
    return listing.names(__name__)


def library(module: str, extra: str) -> ModuleType:
    """Import an engine's library, or a part of it, which from then on tells nobody that it is used.

    Raises:
        EngineMissing: it is not installed, or does not load; the message names the extra.
    """
    silence()
    try:
        with warnings.catch_warnings():  # of their own insides
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ImportError as error:
        gone = isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}.")
        what = "is not installed" if gone else f"does not load ({error})"
        raise EngineMissing(f"{module} {what}: pip install 'edge-optimize[{extra}]'") from error


def silence() -> None:
    """Let no library that is imported from now on tell anybody that it is used."""
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    loaded: dict[str, Any] = sys.modules
    loaded[REPORTER] = None  # as Python has it of what is not to be imported


def check_options(engine: str, options: Options, known: Mapping[str, type]) -> None:
    """Raise InputError for an option that the engine does not know, or that has the wrong type."""
    for key, value in options.items():
        if key not in known:
            raise InputError(listing.unknown(f"option of {engine}", key, known))
        if value is None:
            continue
        # a bool is an int to Python, not to a user
        fits = type(value) is known[key] or (known[key] is float and type(value) is int)
        if not fits or (type(value) is int and value < 1):
            kind = {int: "whole number from 1", str: "string", bool: "true or false"}.get(
                known[key], known[key].__name__
            )
            raise InputError(f"option '{key}' of {engine} is {value!r}; it takes a {kind}.")


def check_specs(engine: str, specs: Specs, inputs: Mapping[str, str | None], outputs: Mapping[str, str | None]) -> None:
    """Raise EngineError where a loaded engine's inputs and outputs are not those of the manifest.

    Args:
        engine: for the message.
        specs: what the manifest says.
        inputs: name to dtype (a numpy dtype's name; None where the engine does not say) of what was loaded.
        outputs: likewise.
    """
    for kind, wanted, got in (("inputs", specs.inputs, inputs), ("outputs", specs.outputs, outputs)):
        said = {spec.name: spec.dtype for spec in wanted}
        if said.keys() != got.keys() or any(got[name] not in (None, dtype) for name, dtype in said.items()):
            raise EngineError(f"this {engine} file has the {kind} {dict(got)}, the manifest says {said}.")


def filled(out: Mapping[str, Array] | None, results: dict[str, Array]) -> dict[str, Array]:
    """The results, those that `out` names in its arrays: the end of every `Session.run`.

    Raises:
        InputError: an output of this name, dtype and shape was not computed.
    """
    for name, array in (out or {}).items():
        value = results.get(name)
        if value is None or value.shape != array.shape or value.dtype != array.dtype:
            got = "no such output" if value is None else f"{value.dtype}{list(value.shape)}"
            raise InputError(f"out={name!r} is {array.dtype}{list(array.shape)}, and what was computed is {got}.")
        array[...] = value
        results[name] = array
    return results


def onnx_files(onnx: Path) -> dict[str, Path]:
    """An ONNX file by role: the model, and its external data where it has some beside it."""
    data = onnx.with_name(f"{onnx.name}.data")
    return {"model": onnx, "data": data} if data.exists() else {"model": onnx}


def describe(counts: Mapping[str, int]) -> str:
    """A precision in words, most frequent first: `int8 21 of 23 ops, f32 2`."""
    total = sum(counts.values())
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{name} {n} of {total} ops" if i == 0 else f"{name} {n}" for i, (name, n) in enumerate(ranked)]
    return ", ".join(parts) or "not known"


def relative_error(
    got: Mapping[str, Array], wanted: Mapping[str, Array], decoding: Decoding | None = None
) -> tuple[float, str]:
    """The largest over the outputs of |got - wanted| / |wanted| (Euclidean norms), and that output's name.

    Both in float64; infinite where shapes differ or a value that should be finite is not. Of classes and boxes, which
    have no norm, it is the share that is not there again.
    """
    worst, name = 0.0, next(iter(wanted), "")
    for key, reference in wanted.items():
        value = got[key]
        error = float("inf")
        share = decoding.difference(key, value, reference) if decoding else None
        if share is not None:
            error = share
        elif value.shape == reference.shape and value.dtype.kind in "biufc" and reference.dtype.kind in "biufc":
            a, b = value.astype(np.float64), reference.astype(np.float64)
            same = (a == b) | (np.isnan(a) & np.isnan(b))  # equal infinities agree
            size, difference = float(np.linalg.norm(b[np.isfinite(b)])), np.where(same, 0.0, a - b)
            error = float(np.linalg.norm(difference)) / max(size, 1e-12) if np.isfinite(difference).all() else error
        elif value.shape == reference.shape and bool(np.all(value == reference)):
            error = 0.0  # strings
        if error > worst:
            worst, name = error, key
    return worst, name
