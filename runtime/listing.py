"""Look-up by listing a folder: the file's name is the key, so a new variant is one new file."""

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from runtime.errors import InputError


def names(package: str) -> list[str]:
    """The variants in a package's folder, sorted; files that begin with an underscore are none."""
    path = importlib.import_module(package).__path__
    return sorted(found.name for found in pkgutil.iter_modules(path) if not found.name.startswith("_"))


def get(package: str, name: str, kind: str) -> ModuleType:
    """Import one variant.

    Raises:
        InputError: there is none of this name; the message names the nearest and lists them all.
    """
    known = names(package)
    if name not in known:
        raise InputError(unknown(kind, name, known))
    return importlib.import_module(f"{package}.{name}")


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One sentence for a name that is not known: the nearest that is, and the whole list."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else "."
    return f"unknown {kind} '{name}'{hint} Known: {', '.join(known) or 'none'}."
