"""Keras 3: a .keras file, or a callable that returns a model, on Keras's torch backend: TensorFlow need not be there.

The original is the model itself, which on this backend is a torch module. Its ONNX file is made by torch's exporters
and compared with it; pictures stay as the model takes them, channels last as a rule. Steps on torch look for torch's
own layers, which Keras's are not, so they are not offered the module.
"""

import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from optimize.checkpoint import fingerprint
from optimize.models import OnnxModel
from optimize.sources import ModelSpec, Original
from optimize.sources.torch import TorchSession
from optimize.usercode import load_callable, user_files
from runtime import host
from runtime.bundle import sha256
from runtime.cache import address, made
from runtime.engines import library
from runtime.errors import Error, InputError, StepError
from runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from torch import nn

GIVES = OnnxModel
FORKABLE = ("optimize.sources.keras", "torch")
OLD = (".h5", ".hdf5")
VERSIONS = ("keras", "torch", "onnx", "onnxscript")


def claims(place: str) -> bool:
    """A path that ends in .keras, or in .h5, of which is said what to do."""
    return place.endswith((".keras", *OLD))


def load(spec: ModelSpec) -> Original:
    """Read the model and export it; where the recipe names this source, `file.py:callable` may return one.

    Raises:
        InputError: it is damaged, is of another format or a newer Keras, has code in it and there is no `--trust`, does
            not say its inputs, or has an op that torch's exporters have not.
    """
    if spec.weights:
        raise InputError(f"{spec.place} holds its own weights; leave out {spec.weights}.")
    model = _read(spec.place, spec.trust)
    inputs = spec.inputs or _inputs(model, spec.place)
    module = _flat(model, inputs, spec.place)
    named = ".py:" in spec.place
    name = address(
        source="keras", code=[sha256(path) for path in (user_files() if named else [Path(spec.place)])],
        weights=fingerprint("", module.state_dict()), inputs=[one.to_json() for one in inputs],
        versions=host.versions(VERSIONS),
    )  # fmt: skip

    def make(folder: Path) -> Mapping[str, Any]:
        try:
            return {"notes": _exported(module, inputs, folder)}
        except StepError as error:
            raise InputError(f"{spec.place} cannot be exported to ONNX: {error}") from error

    entry = made(name, "export from Keras", make)
    return Original(
        entry.folder / "model.onnx", inputs, lambda: TorchSession(module, inputs, spec.threads),
        (f"Keras {host.versions(VERSIONS)['keras']} on its torch backend is the original", *entry.facts["notes"]),
    )  # fmt: skip


def _read(place: str, trust: bool) -> Any:
    with patch.dict(os.environ, KERAS_BACKEND="torch"):  # read when it is imported, by a callable's file too
        keras = library("keras", "keras")
        build = load_callable(place, "model") if ".py:" in place else None
    if (backend := keras.config.backend()) != "torch":
        raise InputError(f"Keras has its {backend} backend in this process; set KERAS_BACKEND=torch before.")
    if build is None:
        return _opened(keras, Path(place), trust)
    try:
        model = build()
    except Error:
        raise
    except Exception as error:
        raise InputError(f"{place} raised {type(error).__name__}: {error}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{place} returned a {type(model).__name__}, not a keras.Model.")
    return model


def _opened(keras: Any, path: Path, trust: bool) -> Any:
    if not path.is_file():
        raise InputError(f"no such file: {path} (the model).")
    if path.suffix in OLD:
        raise InputError(
            f"{path} is of the format before Keras 3: where it was made, "
            f"keras.models.load_model('{path.name}').save('{path.stem}.keras')."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            version = json.loads(archive.read("metadata.json"))["keras_version"]
        return keras.saving.load_model(path, compile=False, safe_mode=not trust)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{path} is no .keras file, or not all of it is here: {error}") from error
    except Exception as error:  # of whatever layer it is that cannot be made again
        words = " ".join(str(error).split())
        if "safe_mode" in words:
            raise InputError(
                f"{path} has a Lambda layer, code that runs when it is read: --trust where you know whose it is."
            ) from error
        if own := re.search(r"Could not locate \w+ '(\w+)'", words):
            raise InputError(
                f"{path} has '{own[1]}', which is not of Keras: give file.py:callable, which returns the model, and "
                "source = 'keras' in [model]."
            ) from error
        newer = f", made by Keras {version}, cannot be read by Keras {keras.__version__}"
        raise InputError(f"{path}{newer}: {type(error).__name__}: {words[:300]}") from error


def _inputs(model: Any, place: str) -> tuple[TensorSpec, ...]:
    if not getattr(model, "inputs", None):
        raise InputError(f"{place} does not say what it takes: give [model.inputs.NAME] a shape, each in its order.")
    return tuple(
        TensorSpec(
            one.name, one.dtype,
            tuple(size or (f"{one.name}_{axis}" if axis else "batch") for axis, size in enumerate(one.shape)),
        )
        for one in model.inputs
    )  # fmt: skip


def _flat(model: Any, inputs: tuple[TensorSpec, ...], place: str) -> "nn.Module":
    """The model as a module of one argument an input, in eval mode, built; its outputs by the names of Keras's layers.

    Raises:
        InputError: it does not take these inputs.
    """
    import torch

    tree = library("keras.tree", "keras")
    known = getattr(model, "inputs", None)
    if known and len(known) != len(inputs):
        raise InputError(f"{place} takes {len(known)} inputs; {len(inputs)} are given in [model.inputs].")
    form = getattr(model, "input", [None] * len(inputs) if len(inputs) > 1 else None)  # a sequence of layers has none

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *arrays: torch.Tensor) -> Any:
            found = self.model(tree.pack_sequence_as(form, arrays))
            flat = tree.flatten(found)
            names = sorted(found) if isinstance(found, dict) else getattr(model, "output_names", ())
            if len(flat) == 1:
                return flat[0]
            return dict(zip(names, flat, strict=True)) if len(set(names)) == len(flat) else flat

    module = Flat().eval()
    shapes = [[size if isinstance(size, int) else 2 for size in spec.shape] for spec in inputs]
    try:
        with torch.no_grad():
            module(*(torch.zeros(s, dtype=getattr(torch, one.dtype)) for s, one in zip(shapes, inputs, strict=True)))
    except Exception as error:  # its own layers raise what they like
        words = " ".join(str(error).split())[:300]
        raise InputError(f"{place} does not take {', '.join(map(str, inputs))}: {words}") from error
    return module


def _exported(module: "nn.Module", inputs: tuple[TensorSpec, ...], folder: Path) -> list[str]:
    """Write model.onnx into a folder that is made; returns how. It is compared with the module on random numbers."""
    from optimize.data import NAMES, from_arrays
    from optimize.flags import AXIS, random_feeds
    from optimize.models import TorchModel
    from optimize.steps import Context
    from optimize.steps.export import Step
    from targets import Scheme

    split = from_arrays(dict.fromkeys(NAMES, random_feeds(inputs, AXIS["max"])), "random numbers").calibrate
    axes = {size: dict(AXIS) for spec in inputs for size in spec.shape if isinstance(size, str)}
    folder.mkdir(parents=True)
    context = Context(split, axes, Scheme(ops=()), folder)
    Step()(TorchModel(module, inputs), context)
    return context.notes
