"""TensorFlow: a SavedModel's folder, or a .tflite file; converted by tf2onnx.

The original runs in TensorFlow, or in TensorFlow Lite's interpreter. Both live in processes of their own, so that this
one, which may hold torch, never has TensorFlow in it. Pictures stay as the model takes them, channels last as a rule.
"""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optimize.models import OnnxModel, read_onnx
from optimize.sources import ModelSpec, Original, _tensorflow
from runtime import host
from runtime.bundle import sha256
from runtime.cache import address, made
from runtime.contender import LIMIT_S, Worker
from runtime.engines import filled
from runtime.errors import EngineError, EngineMissing, InputError
from runtime.host import cores
from runtime.tensors import Array

GIVES = OnnxModel
LITE = ".tflite"
VERSIONS = ("tensorflow", "tensorflow-cpu", "tf2onnx", "onnx")


def claims(place: str) -> bool:
    """A path that ends in .tflite, or a folder with a saved_model.pb in it."""
    return place.endswith(LITE) or (Path(place) / _tensorflow.SAVED).is_file()


def load(spec: ModelSpec) -> Original:
    """Convert the model, in a process of its own, and read from the file what it takes.

    Raises:
        InputError: it is not there or damaged, has ops that run code or read files and there is no `--trust`, or has
            ops that tf2onnx has not.
        EngineMissing: TensorFlow or tf2onnx is not installed.
    """
    path = Path(spec.place)
    if spec.weights:
        raise InputError(f"{path} holds its own weights; leave out {spec.weights}.")
    if not claims(spec.place) or not path.exists():
        kind = "no such file" if not path.exists() else "no folder of a SavedModel, nor a .tflite file"
        raise InputError(f"{kind}: {path} (the model).")
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    name = address(
        source="tensorflow", files={str(one.relative_to(path)): sha256(one) for one in files}, trust=spec.trust,
        versions=host.versions(VERSIONS), opset=_tensorflow.OPSET,
    )  # fmt: skip

    def make(folder: Path) -> Mapping[str, Any]:
        folder.mkdir(parents=True)
        arguments = {"place": str(path.absolute()), "out": str(folder / "model.onnx"), "trust": spec.trust}
        worker = Worker("tf2onnx", limit_s=4 * LIMIT_S)
        try:
            return {"notes": worker.call("optimize.sources._tensorflow:convert", **arguments)}
        except EngineMissing:
            raise
        except EngineError as error:  # TensorFlow's own, and a process that ended
            raise InputError(f"{path} cannot be converted: {' '.join(str(error).split())[:400]}") from error
        finally:
            worker.close()

    entry = made(name, "convert from TensorFlow", make)
    model = read_onnx(entry.folder / "model.onnx")
    if spec.inputs and [one.name for one in spec.inputs] != [one.name for one in model.specs.inputs]:
        takes = ", ".join(map(str, model.specs.inputs))
        raise InputError(f"{path} takes {takes}; [model.inputs] names other ones.")
    session: Callable[..., Any] = LiteSession if path.is_file() else SavedSession
    return Original(
        model.path, spec.inputs or model.specs.inputs,
        lambda: session(path, spec.threads), tuple(entry.facts["notes"]),
    )  # fmt: skip


class SavedSession:
    """A SavedModel's signature, called in TensorFlow."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self._tf = _tensorflow.imported()
        self.threads = threads or cores()
        if threads:  # before anything runs in this process
            self._tf.config.threading.set_intra_op_parallelism_threads(threads)
        self._call = _tensorflow.signature(path)
        self._names = _tensorflow.arguments(self._call)

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        try:
            found = self.inside(feeds)()
            return filled(out, {_tensorflow.plain(name): value.numpy() for name, value in found.items()})
        except self._tf.errors.OpError as error:
            raise EngineError(f"TensorFlow: {error}") from error

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], Any]:
        """The signature on tensors; see `runtime.engines.Session`."""
        given = {name: self._tf.constant(feeds[name]) for name in self._names}
        return lambda: self._call(**given)

    def precision(self) -> dict[str, int]:
        """It does not say."""
        return {}

    def close(self) -> None:
        """Nothing is held but the model."""


class LiteSession:
    """A .tflite file in TensorFlow Lite's interpreter, which takes one call at a time."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self.threads = threads or cores()
        self._lock = threading.Lock()
        self._lite = _tensorflow.interpreter(path, self.threads)
        given, found = _tensorflow.lite_names(self._lite)
        self._places = {name: each["index"] for name, each in zip(given, self._lite.get_input_details(), strict=True)}
        self._outputs = dict(zip(found, self._lite.get_output_details(), strict=True))
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        with self._lock:
            try:
                self._give(feeds)
                self._lite.invoke()
            except (RuntimeError, ValueError) as error:
                raise EngineError(f"TensorFlow Lite: {error}") from error
            found = {name: self._real(details) for name, details in self._outputs.items()}
        return filled(out, found)

    def _real(self, details: Mapping[str, Any]) -> Array:
        """An output; where it is rounded, as the real numbers that it stands for."""
        value = np.array(self._lite.get_tensor(details["index"]))
        scale, zero = details["quantization"]
        return (value.astype(np.float32) - np.float32(zero)) * np.float32(scale) if scale else value

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """The interpreter alone, its inputs in their places; see `runtime.engines.Session`."""
        self._give(feeds)
        return lambda: self._lite.invoke()

    def _give(self, feeds: Mapping[str, Array]) -> None:
        shapes = {name: feeds[name].shape for name in self._places}
        if shapes != self._shapes:
            for name, place in self._places.items():
                self._lite.resize_tensor_input(place, shapes[name], strict=True)
            self._lite.allocate_tensors()
            self._shapes = shapes
        for name, place in self._places.items():
            self._lite.set_tensor(place, np.ascontiguousarray(feeds[name]))

    def precision(self) -> dict[str, int]:
        """Of its tensors, since the interpreter computes in their format."""
        counts: dict[str, int] = {}
        short = {"float32": "f32", "float16": "f16"}
        for each in self._lite.get_tensor_details():
            name = np.dtype(each["dtype"]).name
            counts[short.get(name, name)] = counts.get(short.get(name, name), 0) + 1
        return counts

    def close(self) -> None:
        """Nothing is held but the interpreter."""
