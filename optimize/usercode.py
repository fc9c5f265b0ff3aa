"""Load a user's callable from `path/to/file.py:name`, without letting their files shadow ours."""

import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from runtime.errors import InputError
from runtime.listing import unknown


def split_place(place: str) -> tuple[Path, str]:
    """`file.py:name` into its two parts; raises InputError where it is not of that form."""
    file, _, name = place.rpartition(":")
    if not file or not name.isidentifier():
        raise InputError(f"'{place}' is not of the form file.py:name.")
    return Path(file), name


def load_callable(place: str, what: str) -> Callable[..., Any]:
    """The callable at `file.py:name`.

    The file is imported under a private name, and its folder comes last on sys.path: its own `import helpers` works,
    and a `runtime.py` beside it does not become ours.

    Raises:
        InputError: no such file, no such name, or the file raises on import.
    """
    path, name = split_place(place)
    module = _load(path, what)
    if not hasattr(module, name):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{path} has no '{name}': {unknown(what, name, known)}")
    found: Callable[..., Any] = getattr(module, name)
    if not callable(found):
        raise InputError(f"'{name}' in {path} is a {type(found).__name__}, not a callable.")
    return found


def _load(path: Path, what: str) -> ModuleType:
    if not path.is_file():
        raise InputError(f"no such file: {path} (the {what} of '{path.name}').")
    path = path.resolve()
    private = f"_user_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}_{path.stem}"
    if private in sys.modules:
        return sys.modules[private]
    spec = importlib.util.spec_from_file_location(private, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[private]
        if not isinstance(error, Exception):
            raise
        raise InputError(f"{path} raised {type(error).__name__} when imported: {error}") from error
    return module


def user_files() -> list[Path]:
    """The Python files that were imported and belong to neither Python, nor a package, nor us: the user's own."""
    places = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found = set()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or name.partition(".")[0] in ("optimize", "runtime", "targets", "__main__"):
            continue
        path = Path(file).resolve()
        if path.suffix == ".py" and path.is_file() and not any(path.is_relative_to(place) for place in places):
            found.add(path)
    return sorted(found)
