"""The bundle on disk, in one place: write, read, verify. Nothing in it is ever executed or unpickled.

    manifest.json            what follows in `Bundle`, and the sha256 of every other file
    <engine's name>/         one folder an engine: its files, and source.onnx, from which it was compiled
    fallback/model.onnx      the plain fp32 model, for any engine library that is there
    report/                  the report of the run that made it

Bytes that are equal are stored once: two engines may name the same source.

History of the format (`schema` in the manifest):
    1   2026-11   first
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from runtime.errors import BundleError
from runtime.tensors import Specs

SCHEMA = 1
MANIFEST = "manifest.json"
_MANIFEST_LIMIT = 64 * 2**20  # bytes; the largest real one is a few kilobytes


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
        needs: `instruction_sets_any`: one of these must be there.
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


@dataclass(frozen=True)
class Fallback:
    """The plain fp32 ONNX file, and the engine libraries to try, in order, each with the options to open it with."""

    files: Mapping[str, str]
    engines: Mapping[str, Mapping[str, Any]]
    measured: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A manifest that was read and found sound.

    Attributes:
        path: its folder.
        engines: best first, as measured on the build host.
        axes: named axis to its `min`, `best` and `max`.
        files: path to sha256, of every file.
    """

    path: Path
    name: str
    specs: Specs
    engines: tuple[EngineEntry, ...]
    fallback: Fallback
    axes: Mapping[str, Mapping[str, int]]
    files: Mapping[str, str]
    made_with: Mapping[str, Any]

    def resolve(self, files: Mapping[str, str]) -> dict[str, Path]:
        """Role to path on this machine."""
        return {role: self.path / name for role, name in files.items()}


def read(path: str | Path) -> Bundle:
    """Read a bundle's folder and verify every file in it.

    Raises:
        BundleError: it is no bundle, from a newer version, damaged, or names something outside its folder.
    """
    folder = Path(path)
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
    try:
        data = json.loads(raw)
        schema = _typed(data, "schema", int)
        if schema > SCHEMA:
            raise BundleError(
                f"{folder} has format {schema}; this runtime reads up to {SCHEMA}: pip install --upgrade edge-optimize"
            )
        if schema < 1:
            raise ValueError(f"format {schema}")
        bundle = Bundle(
            path=folder,
            name=_typed(data, "name", str),
            specs=Specs.from_json(data),
            engines=tuple(_entry(entry) for entry in _typed(data, "engines", list)),
            fallback=_fallback(_typed(data, "fallback", dict)),
            axes={k: {n: _typed(axis, n, int) for n in axis} for k, axis in _typed(data, "axes", dict).items()},
            files=_strings(data, "files"),
            made_with=_typed(data, "made_with", dict),
        )
        _check(bundle)
    # RecursionError: deep JSON; OverflowError: infinite numbers; OSError, RuntimeError: names and links no file has
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RuntimeError) as error:
        raise BundleError(f"{folder}: {MANIFEST} is damaged ({type(error).__name__}: {error}).") from error
    return bundle


def _typed(data: Mapping[str, Any], key: str, kind: type) -> Any:
    """A value of exactly this type; KeyError, or TypeError where it is of another."""
    value = data[key]
    if type(value) is not kind:
        raise TypeError(f"'{key}' is a {type(value).__name__}, not a {kind.__name__}")
    return value


def _strings(data: Mapping[str, Any], key: str) -> dict[str, str]:
    found = _typed(data, key, dict)
    return {name: _typed(found, name, str) for name in found}


def _entry(data: Mapping[str, Any]) -> EngineEntry:
    files = _strings(data, "files")
    if files and "model" not in files:
        raise KeyError("model")
    needs = _typed(data, "needs", dict)
    if any(type(name) is not str for name in needs.get("instruction_sets_any", ())):
        raise TypeError("'instruction_sets_any' is not a list of names")
    return EngineEntry(
        **{key: _typed(data, key, str) for key in ("name", "target", "engine", "source", "precision")},
        files=files,
        needs=needs,
        options=_typed(data, "options", dict),
        measured=_typed(data, "measured", dict),
    )


def _fallback(data: Mapping[str, Any]) -> Fallback:
    engines = _typed(data, "engines", dict)
    files = _strings(data, "files")
    return Fallback(
        {"model": files["model"], **files},
        {name: _typed(engines, name, dict) for name in engines},
        _typed(data, "measured", dict),
    )


def _check(bundle: Bundle) -> None:
    """Every path stays inside, every file is there with the bytes it was written with."""
    named = [*bundle.fallback.files.values()]
    for entry in bundle.engines:
        named += [*entry.files.values(), entry.source]
    for name in named:
        if name not in bundle.files:
            raise BundleError(f"{bundle.path}: the manifest names {name!r} without its sha256.")
    root = bundle.path.resolve()
    for name, digest in bundle.files.items():
        pure = PurePosixPath(name)
        file = bundle.path / name
        inside = not pure.is_absolute() and ".." not in pure.parts and "\\" not in name and ":" not in name
        if not inside or not file.resolve().is_relative_to(root):
            raise BundleError(f"{bundle.path}: the path {name!r} leads out of the bundle; it is refused.")
        if file.is_symlink() or not file.is_file():
            raise BundleError(f"{bundle.path}: {name} is missing. Copy the whole folder again.")
        if sha256(file) != digest:
            raise BundleError(f"{bundle.path}: {name} is not as it was written (sha256). Copy the whole folder again.")


def write(
    path: Path,
    *,
    name: str,
    specs: Specs,
    engines: Sequence[EngineEntry],
    fallback: Fallback,
    axes: Mapping[str, Mapping[str, int]],
    made_with: Mapping[str, Any],
    report: Sequence[Path] = (),
) -> Bundle:
    """Write a bundle. The entries' paths are those of this machine; the files are copied.

    It is written beside `path` under a temporary name, read back, and renamed: half a bundle cannot be seen.

    Raises:
        BundleError: what was written does not read back.
        OSError: the disk is full, or the folder may not be written.
    """
    with _beside(path) as folder:
        stored: dict[str, str] = {}  # sha256 -> name in the bundle

        def store(source: str, wanted: str) -> str:
            digest = sha256(Path(source))
            if digest not in stored or _tied(source):
                target = folder / wanted
                if target.exists():  # two files of one name, from two folders
                    wanted = f"{target.parent.relative_to(folder).as_posix()}/{digest[:8]}/{target.name}"
                    target = folder / wanted
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                stored[digest] = wanted
                return wanted
            return stored[digest]

        def entry_json(entry: EngineEntry) -> dict[str, Any]:
            files = {role: store(file, f"{entry.name}/{Path(file).name}") for role, file in entry.files.items()}
            if _tied(entry.source):  # an ONNX file finds its external data by name, beside itself
                source = store(entry.source, f"{entry.name}/source/{Path(entry.source).name}")
                store(f"{entry.source}.data", f"{entry.name}/source/{Path(entry.source).name}.data")
            else:
                source = store(entry.source, f"{entry.name}/source.onnx")
            return {**vars(entry), "files": files, "source": source}

        fallback_files = {role: store(file, f"fallback/{Path(file).name}") for role, file in fallback.files.items()}
        entries = [entry_json(entry) for entry in engines]
        for file in report:
            store(str(file), f"report/{file.name}")
        manifest = {
            "schema": SCHEMA,
            "name": name,
            **specs.to_json(),
            "axes": axes,
            "engines": entries,
            "fallback": {**vars(fallback), "files": fallback_files},
            "made_with": made_with,
            "files": {
                file.relative_to(folder).as_posix(): sha256(file)
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        read(folder)
        _replace(folder, path)
    return read(path)


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _tied(source: str) -> bool:
    """Whether a file must keep its place: external data, or an ONNX file that has some beside it."""
    return source.endswith(".data") or Path(source + ".data").exists()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(new: Path, path: Path) -> None:
    """Put a finished folder in another's place; the old one is moved aside, and back where that fails."""
    old = path.with_name(f".{path.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
