"""The bundle on disk: its format, reading and verifying. Nothing in it is ever executed or unpickled.

    manifest.json            what follows in `Bundle`, and the sha256 of every other file
    <engine's name>/         one folder an engine: its files, and source.onnx, from which it was compiled
    fallback/model.onnx      the plain fp32 model, for any engine library that is there
    golden/                  a few real inputs (.npy); beside each engine what it answered to them
    pre/                     what preprocessing of raw samples reads: a tokenizer, say
    report/                  the report of the run that made it
    manifest.sig             where it was signed: `runtime.signing`

Bytes that are equal are stored once: two engines may name the same source. Several models in one folder: a manifest
with `models`, name to the `folder` of a bundle and the `sha256` of its manifest.

History of the format (`schema` in the manifest):
    1   2026-11   first
    2   2026-11   files with their size; golden answers; needs by version and GPU; several models
    3   2026-11   preprocessing of raw samples; states
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from runtime import external, listing, pre
from runtime.errors import BundleError, InputError
from runtime.pre import Preprocessing, PreSpec
from runtime.streaming import check_states
from runtime.tensors import Specs

SCHEMA = 3
MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 2 * 2**20  # bytes; the largest real one is a few kilobytes, and JSON takes much more in memory


@dataclass(frozen=True)
class Stored:
    """A file of a bundle as it was written; format 1 did not note the size in bytes."""

    sha256: str
    bytes: int | None = None


@dataclass(frozen=True)
class Golden:
    """What an engine answered on the build host to the bundle's golden inputs.

    Attributes:
        outputs: output to .npy file.
        tolerance: the largest relative error (`engines.relative_error`) of a right answer.
    """

    outputs: Mapping[str, str]
    tolerance: float


@dataclass(frozen=True)
class EngineEntry:
    """One engine of a bundle.

    Attributes:
        name: the candidate's name, and the folder's.
        target: for which target it was chosen.
        engine: the engine library's file in `runtime/engines`.
        files: role to path in the bundle; empty where the engine could not be built on the build host.
        source: the ONNX file it was compiled from.
        options: what `engines.<engine>.open` is given.
        needs: what it takes of a host, as `fitness.misfit` reads it; empty where anything will do.
        precision: what was seen to run on the build host.
        measured: what the report says of it (accuracy, latency); for people, the runtime does not decide by it.
    """

    name: str
    target: str
    engine: str
    files: Mapping[str, str]
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, Any] = field(default_factory=dict)
    precision: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    golden: Golden | None = None


@dataclass(frozen=True)
class Fallback:
    """The plain fp32 ONNX file, and the engine libraries to try, in order, each with the options to open it with."""

    files: Mapping[str, str]
    engines: Mapping[str, Mapping[str, Any]]
    measured: Mapping[str, Any] = field(default_factory=dict)
    golden: Golden | None = None


@dataclass(frozen=True)
class Bundle:
    """A manifest that was read and found sound.

    Attributes:
        path: its folder.
        engines: best first, as measured on the build host.
        axes: named axis to its `min`, `best` and `max`.
        files: of every file, path to what it was when it was written.
        golden: input to .npy file, a few real samples; empty where the bundle has none.
        pre: what makes inputs of raw samples, its files in the bundle; empty where the model takes arrays alone.
        states: input to the output that gives it for the next call; empty for a model without.
    """

    path: Path
    name: str
    specs: Specs
    engines: tuple[EngineEntry, ...]
    fallback: Fallback
    axes: Mapping[str, Mapping[str, int]]
    files: Mapping[str, Stored]
    made_with: Mapping[str, Any]
    golden: Mapping[str, str] = field(default_factory=dict)
    pre: tuple[PreSpec, ...] = ()
    states: Mapping[str, str] = field(default_factory=dict)

    def resolve(self, files: Mapping[str, str]) -> dict[str, Path]:
        """Role to path on this machine."""
        return {role: self.path / name for role, name in files.items()}

    def pre_here(self) -> tuple[PreSpec, ...]:
        """`pre`, its files on this machine."""
        return tuple(
            replace(spec, files={role: str(file) for role, file in self.resolve(spec.files).items()})
            for spec in self.pre
        )

    def preprocessing(self) -> Preprocessing | None:
        """What makes inputs of raw samples, ready; None where there is none.

        Raises:
            InputError: its settings or its files cannot be.
            EngineMissing: without the library that reads them.
        """
        return Preprocessing(self.pre_here(), self.specs.inputs) if self.pre else None


def read(path: str | Path, model: str | None = None, verify_key: str | Path | None = None) -> Bundle:
    """Read a bundle and verify every file in it.

    Args:
        path: its folder, or a .zip of it, which is unpacked into the cache.
        model: which one, of a bundle with several.
        verify_key: the public key (a PEM file, or its text) of whoever must have signed it.

    Raises:
        BundleError: it is no bundle, from a newer version, damaged, not signed by this key, or names something outside
            its folder.
        InputError: it has no such model, or several and none was named; or the key is none.
    """
    folder = Path(path)
    if folder.is_file():
        from runtime.zipped import unpacked

        folder = unpacked(folder)
    raw = read_manifest(folder)
    if verify_key is not None:
        from runtime.signing import verify

        verify(folder, raw, verify_key)
    data = _parsed(folder, raw)
    try:
        if "models" not in data:
            if model is not None and model != _typed(data, "name", str):
                raise InputError(listing.unknown("model of this bundle", model, [data["name"]]))
            return _bundle(folder, data)
        models = {name: _typed(_typed(data, "models", dict), name, dict) for name in data["models"]}
        if model not in models:
            asked = listing.unknown("model of this bundle", model, models) if model else ", ".join(sorted(models))
            raise InputError(asked if model else f"{path} has several models; name one, model=...: {asked}.")
        inner = _typed(models[model], "folder", str)
        if escapes(inner) or (folder / inner).is_symlink():
            raise BundleError(f"{folder}: the path {inner!r} leads out of the bundle; it is refused.")
        raw = read_manifest(folder / inner)
        if hashlib.sha256(raw).hexdigest() != models[model]["sha256"]:
            raise BundleError(f"{folder}: {inner}/{MANIFEST} is not as it was written (sha256).")
        return _bundle(folder / inner, _parsed(folder / inner, raw))
    # OverflowError: infinite numbers; OSError, RuntimeError: names and links that no file has
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RuntimeError) as error:
        raise BundleError(f"{folder}: {MANIFEST} is damaged ({type(error).__name__}: {error}).") from error


def read_manifest(folder: Path) -> bytes:
    """The bytes of a bundle's manifest; BundleError where there is none, or one larger than any real one."""
    try:
        with (folder / MANIFEST).open("rb") as stream:
            raw = stream.read(_MANIFEST_LIMIT + 1)
    except OSError as error:
        raise BundleError(
            f"{folder} is not a bundle: {MANIFEST} cannot be read ({error.strerror}). "
            "A bundle is the folder 'bundle' that `optimize run` writes."
        ) from error
    if len(raw) > _MANIFEST_LIMIT:
        raise BundleError(f"{folder}: {MANIFEST} is over {_MANIFEST_LIMIT // 2**20} MiB; it was not read.")
    return raw


def escapes(name: str) -> bool:
    """Whether a name in a bundle is no plain relative path, on this system or another."""
    pure = PurePosixPath(name)
    return pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name


def _parsed(folder: Path, raw: bytes) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(raw)
        schema = _typed(data, "schema", int)
        if schema < 1:
            raise ValueError(f"format {schema}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{folder}: {MANIFEST} is damaged ({type(error).__name__}: {error}).") from error
    if schema > SCHEMA:
        raise BundleError(
            f"{folder} has format {schema}; this runtime reads up to {SCHEMA}: pip install --upgrade edge-optimize"
        )
    return data


def _bundle(folder: Path, data: Mapping[str, Any]) -> Bundle:
    bundle = Bundle(
        path=folder,
        name=_typed(data, "name", str),
        specs=Specs.from_json(data),
        engines=tuple(_entry(entry) for entry in _typed(data, "engines", list)),
        fallback=_fallback(_typed(data, "fallback", dict)),
        axes={k: {n: _typed(axis, n, int) for n in axis} for k, axis in _typed(data, "axes", dict).items()},
        files=_files(data),
        made_with=_typed(data, "made_with", dict),
        golden=_strings(data, "golden") if "golden" in data else {},
        pre=tuple(map(_pre, _typed(data, "pre", list))) if "pre" in data else (),
        states=_strings(data, "states") if "states" in data else {},
    )
    try:
        check_states(bundle.states, bundle.specs)
    except InputError as error:
        raise BundleError(f"{folder}: {MANIFEST} is damaged: {error}") from error
    _check(bundle)
    return bundle


def _typed(data: Mapping[str, Any], key: str, kind: type) -> Any:
    """A value of exactly this type; KeyError, or TypeError where it is of another."""
    if type(data) is not dict:
        raise TypeError(f"a {type(data).__name__} where '{key}' was looked for")
    value = data[key]
    if type(value) is not kind:
        raise TypeError(f"'{key}' is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _strings(data: Mapping[str, Any], key: str) -> dict[str, str]:
    found = _typed(data, key, dict)
    return {name: _typed(found, name, str) for name in found}


def _pre(data: Any) -> PreSpec:
    columns, kind = _typed(data, "columns", list), _typed(data, "kind", str)
    if not columns or any(type(name) is not str for name in columns) or kind not in pre.names():
        raise ValueError(f"preprocessing {kind!r} of the columns {columns!r}")
    return PreSpec(kind, tuple(columns), _typed(data, "settings", dict), _strings(data, "files"))


def _files(data: Mapping[str, Any]) -> dict[str, Stored]:
    if data["schema"] == 1:
        return {name: Stored(digest) for name, digest in _strings(data, "files").items()}
    found = _typed(data, "files", dict)
    entries = {name: _typed(found, name, dict) for name in found}
    return {name: Stored(_typed(one, "sha256", str), _typed(one, "bytes", int)) for name, one in entries.items()}


def _golden(data: Mapping[str, Any]) -> Golden | None:
    if data.get("golden") is None:
        return None
    found = _typed(data, "golden", dict)
    tolerance = _typed(found, "tolerance", float)
    if not 0 <= tolerance < 1:  # at 1 nothing at all is as near as the right answer
        raise ValueError(f"a tolerance of {tolerance}")
    return Golden(_strings(found, "outputs"), tolerance)


def _entry(data: Mapping[str, Any]) -> EngineEntry:
    files = _strings(data, "files")
    if files and "model" not in files:
        raise KeyError("model")
    needs = _typed(data, "needs", dict)
    if any(type(name) is not str for name in needs.get("instruction_sets_any", ())):
        raise TypeError("'instruction_sets_any' is not a list of names")
    for key in ("version", "compute_capability", "cuda", "driver"):
        if key in needs:
            _strings(needs, key)
    if "layout" in needs:
        layout = _typed(needs, "layout", dict)
        any(_typed(layout, name, bool) for name in layout)
    return EngineEntry(
        **{key: _typed(data, key, str) for key in ("name", "target", "engine", "source", "precision")},
        files=files,
        needs=needs,
        options=_typed(data, "options", dict),
        measured=_typed(data, "measured", dict),
        golden=_golden(data),
    )


def _fallback(data: Mapping[str, Any]) -> Fallback:
    engines = _typed(data, "engines", dict)
    files = _strings(data, "files")
    return Fallback(
        {"model": files["model"], **files},
        {name: _typed(engines, name, dict) for name in engines},
        _typed(data, "measured", dict),
        _golden(data),
    )


def _check(bundle: Bundle) -> None:
    """Every path stays inside, every file is there with the bytes it was written with."""
    models = [bundle.fallback.files["model"]]  # what an engine may read as ONNX
    named = [*bundle.fallback.files.values(), *bundle.golden.values()]
    named += [file for spec in bundle.pre for file in spec.files.values()]
    for golden in (bundle.fallback.golden, *(entry.golden for entry in bundle.engines)):
        named += golden.outputs.values() if golden else ()
    for entry in bundle.engines:
        named += [*entry.files.values(), entry.source]
        models += [*(file for role, file in entry.files.items() if role == "model"), entry.source]
    for name in named:
        if name not in bundle.files:
            raise BundleError(f"{bundle.path}: the manifest names {name!r} without its sha256.")
    root = bundle.path.resolve()
    for name, stored in bundle.files.items():
        file = bundle.path / name
        if escapes(name) or not file.resolve().is_relative_to(root):
            raise BundleError(f"{bundle.path}: the path {name!r} leads out of the bundle; it is refused.")
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{bundle.path}: {name} is missing. Copy the whole folder again.")
        size = file.stat().st_size
        if stored.bytes not in (None, size):
            again = "Copy the whole folder again."
            raise BundleError(f"{bundle.path}: {name} has {size} bytes, and was written with {stored.bytes}. {again}")
        if sha256(file) != stored.sha256:
            raise BundleError(f"{bundle.path}: {name} is not as it was written (sha256). Copy the whole folder again.")
    for name in dict.fromkeys(models):
        for place in external.locations(bundle.path / name):
            beside = (PurePosixPath(name).parent / place).as_posix()
            if escapes(place) or beside not in bundle.files:
                raise BundleError(
                    f"{bundle.path}: {name} takes weights from {place!r}, which is no file of the bundle."
                )


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()
