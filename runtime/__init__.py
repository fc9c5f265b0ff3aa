"""Run a bundle on a device: `model = runtime.load("bundle"); y = model(x)`. Needs numpy and one engine library."""

from runtime.bundle import Bundle
from runtime.errors import (
    BundleError,
    EngineError,
    EngineMissing,
    Error,
    InputError,
    NoEngineError,
    WorkError,
)
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
