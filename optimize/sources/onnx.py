"""An ONNX file as it is; the original runs it on ONNX Runtime with its defaults."""

from pathlib import Path

from optimize.models import read_onnx
from optimize.sources import ModelSpec, Original
from runtime import engines
from runtime.errors import InputError
from runtime.host import facts


def claims(place: str) -> bool:
    """A path that ends in .onnx."""
    return place.endswith(".onnx")


def load(spec: ModelSpec) -> Original:
    """Read its inputs and outputs; the file is copied nowhere."""
    if spec.weights:
        raise InputError(f"{spec.place} holds its own weights; leave out {spec.weights}.")
    path = Path(spec.place)
    model = read_onnx(path)
    options = {"threads": spec.threads} if spec.threads else {}
    return Original(
        path,
        model.specs.inputs,
        lambda: engines.get("onnxruntime").open({"model": path}, model.specs, facts(), options),
    )
