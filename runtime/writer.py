"""Writing bundles, of one model or of several; `runtime.bundle` has the format."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.bundle import MANIFEST, SCHEMA, Bundle, EngineEntry, Fallback, Golden, escapes, read, read_manifest, sha256
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import Specs


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
    golden: Mapping[str, str] | None = None,
    pre: Sequence[PreSpec] = (),
    states: Mapping[str, str] | None = None,
    pages: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, str]] = lambda _: {},
) -> Bundle:
    """Write a bundle. The entries' paths are those of this machine; the files are copied.

    It is written beside `path` under a temporary name, read back, and renamed: half a bundle cannot be seen. `pages`
    is told the engines as the manifest has them, and gives further files: name to text.

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

        def golden_json(answers: Golden | None, name: str) -> dict[str, Any] | None:
            if answers is None:
                return None
            stored = {key: store(file, f"{name}/golden/{Path(file).name}") for key, file in answers.outputs.items()}
            return {"outputs": stored, "tolerance": answers.tolerance}

        def entry_json(entry: EngineEntry) -> dict[str, Any]:
            files = {role: store(file, f"{entry.name}/{Path(file).name}") for role, file in entry.files.items()}
            if _tied(entry.source):  # an ONNX file finds its external data by name, beside itself
                source = store(entry.source, f"{entry.name}/source/{Path(entry.source).name}")
                store(f"{entry.source}.data", f"{entry.name}/source/{Path(entry.source).name}.data")
            else:
                source = store(entry.source, f"{entry.name}/source.onnx")
            golden = golden_json(entry.golden, entry.name)
            return {**vars(entry), "files": files, "source": source, "golden": golden}

        fallback_files = {role: store(file, f"fallback/{Path(file).name}") for role, file in fallback.files.items()}
        entries = [entry_json(entry) for entry in engines]
        for file in report:
            store(str(file), f"report/{file.name}")
        for page, text in pages(entries).items():
            (folder / page).write_text(text, encoding="utf-8")
        manifest = {
            "schema": SCHEMA,
            "name": name,
            **specs.to_json(),
            **({"states": dict(states)} if states else {}),
            "axes": axes,
            "engines": entries,
            "fallback": {
                **vars(fallback),
                "files": fallback_files,
                "golden": golden_json(fallback.golden, "fallback"),
            },
            "golden": {key: store(file, f"golden/{Path(file).name}") for key, file in (golden or {}).items()},
            "pre": [
                {
                    **spec.to_json(),
                    "files": {role: store(file, f"pre/{Path(file).name}") for role, file in spec.files.items()},
                }
                for spec in pre
            ],
            "made_with": made_with,
            "files": {
                file.relative_to(folder).as_posix(): {"sha256": sha256(file), "bytes": file.stat().st_size}
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            },
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        read(folder)
        _replace(folder, path)
    return read(path)


def join(path: Path, models: Mapping[str, Path]) -> None:
    """Write one bundle of several, each a folder by the name that `runtime.load(path, model=NAME)` takes.

    Raises:
        InputError: a name that is no folder's, or fewer than two models.
        BundleError: one of them is refused.
        OSError: the disk is full, or the folder may not be written.
    """
    if len(models) < 2:
        raise InputError(f"a bundle of several models takes at least two; got {len(models)}.")
    for name in models:
        if escapes(name) or "/" in name or name in ("", ".", MANIFEST) or not name.isprintable():
            raise InputError(f"{name!r} cannot be a model's name in a bundle: it is to be the name of a folder.")
    with _beside(path) as folder:
        listed = {}
        for name, source in models.items():
            bundle = read(source)
            shutil.copytree(bundle.path, folder / name)
            listed[name] = {"folder": name, "sha256": hashlib.sha256(read_manifest(folder / name)).hexdigest()}
        text = json.dumps({"schema": SCHEMA, "models": listed}, indent=1)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
        for name in models:
            read(folder, name)
        _replace(folder, path)


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
