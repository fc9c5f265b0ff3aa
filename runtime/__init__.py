"""Run a bundle on a device: `model = runtime.load("bundle"); y = model(x)`. Needs numpy and one engine library.

What is named here is imported when it is first used (PEP 562): a program that starts does not wait for what it may not
need yet.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.bundle import Bundle
    from runtime.errors import BundleError, EngineError, EngineMissing, Error, InputError, NoEngineError, WorkError
    from runtime.loading import load
    from runtime.model import Model
    from runtime.tensors import TensorSpec

__all__ = [
    "Bundle",
    "BundleError",
    "EngineError",
    "EngineMissing",
    "Error",
    "InputError",
    "Model",
    "NoEngineError",
    "TensorSpec",
    "WorkError",
    "load",
]

_PLACES = {"Bundle": "bundle", "Model": "model", "TensorSpec": "tensors", "load": "loading"}  # the others are errors


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"runtime.{_PLACES.get(name, 'errors')}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
