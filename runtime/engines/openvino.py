"""OpenVINO on the CPU. Files are its intermediate representation: model.xml and model.bin."""

import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.engines import Options, check_options, check_specs, filled, library
from runtime.errors import EngineError, InputError
from runtime.fitness import oldest
from runtime.host import Host
from runtime.tensors import Array, Specs, TensorSpec

DISTRIBUTION = "openvino"
# what multiplies by weights of 4 bits rounds its other factor in the call, as it does with those of 8
TOLERANCE = {"f32": 1e-3, "f16": 2e-2, "bf16": 0.3, "int8": 0.3, "int4": 0.3}
LOCAL = frozenset({"isa"})
FORKABLE = ("runtime.engines.openvino:_library",)
OPTIONS: dict[str, type] = {
    "threads": int, "precision": str, "hint": str, "streams": int, "device": str, "cache": bool, "isa": str,
    "fixed": dict,
}  # fmt: skip
PRECISIONS = ("f32", "bf16", "f16")
HINTS = ("latency", "throughput")
ISAS = ("SSE41", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16")
# oneDNN reads it once, when it computes first; its kernels then are those of an older processor
ISA = "ONEDNN_MAX_CPU_ISA"
KERNELS = "openvino_intel_cpu_plugin"
CONVERTER = "openvino.tools.ovc"  # the most of what importing OpenVINO takes, and nothing that runs a model calls it

_NAMES = {"u8": "int8", "i8": "int8", "u4": "int4", "i4": "int4"}
_MOVES = {"Input", "Output", "Reorder", "Const", "Reshape", "Transpose", "MemoryInput", "MemoryOutput", "ShapeOf"}


class OpenVinoSession:
    """A compiled model with an inference request for each call that is under way.

    `sizes`: of named axes, where it is compiled for these alone.
    """

    def __init__(
        self, files: Mapping[str, Path], specs: Specs, options: Options, cores: int,
        sizes: Mapping[str, int] | None = None,
    ) -> None:  # fmt: skip
        limit(options)
        ov = _library()
        try:
            core = ov.Core()
            if "weights" in files:
                model = core.read_model(str(files["model"]), str(files["weights"]))
            else:
                model = core.read_model(str(files["model"]))
            if sizes:
                shapes = {spec.name: spec.sized(sizes) for spec in specs.inputs}
                model.reshape({port: shapes[_name(port, specs.inputs)] for port in model.inputs})
            device = _device(core, options)
            self._compiled: Any = core.compile_model(model, device, properties(options, cores))
            self._requests: deque[Any] = deque([self._compiled.create_infer_request()])
        except RuntimeError as error:  # its only exception
            raise EngineError(f"OpenVINO cannot load {files['model'].name}: {_reason(error)}") from error
        # of the CPU: the call waits while a GPU or an NPU works
        self.threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS")) if device == "CPU" else 1
        inputs = {_name(port, specs.inputs): _dtype(port) for port in self._compiled.inputs}
        outputs = {_name(port, specs.outputs): _dtype(port) for port in self._compiled.outputs}
        check_specs("OpenVINO", specs, inputs, outputs)
        self._outputs = list(outputs)
        self._index = {name: index for index, name in enumerate(inputs)}

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        request = self._taken()
        try:
            indexed = {self._index[name]: _writable(value) for name, value in feeds.items()}
            found = request.infer(indexed, share_inputs=True, share_outputs=True)
            # the request's own memory is written anew by its next call, so the caller gets a copy
            results = {name: value.copy() for name, value in zip(self._outputs, found.values(), strict=True)}
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_reason(error)}") from error
        finally:
            self._requests.append(request)
        return filled(out, results)

    def begin(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Start a call, which goes on by itself; see `runtime.model.Model.map`."""
        request = self._taken()
        try:
            indexed = {self._index[name]: _writable(value) for name, value in feeds.items()}
            request.start_async(indexed, share_inputs=True)
        except RuntimeError as error:
            self._requests.append(request)
            raise EngineError(f"OpenVINO failed: {_reason(error)}") from error

        def end() -> dict[str, Array]:
            try:
                request.wait()  # `feeds` stay where they are until then
                tensors = [request.get_output_tensor(place).data.copy() for place in range(len(self._outputs))]
                return dict(zip(self._outputs, tensors, strict=True))
            except RuntimeError as error:
                raise EngineError(f"OpenVINO failed: {_reason(error)}") from error
            finally:
                if self._compiled is not None:
                    self._requests.append(request)

        return end

    def _taken(self) -> Any:
        try:
            return self._requests.pop()
        except IndexError:
            if self._compiled is None:
                raise EngineError("this OpenVINO session is closed.") from None
            return self._compiled.create_infer_request()

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """A request whose tensors are set already; see `runtime.engines.Session`."""
        ov = _library()
        request = self._compiled.create_infer_request()
        try:
            for name, value in feeds.items():
                # shared memory must be whole and may be written, whoever owns the array
                held = ov.Tensor(np.require(value, requirements=("C", "W")), shared_memory=True)
                request.set_input_tensor(self._index[name], held)
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"OpenVINO does not take the arrays: {_reason(error)}") from error
        return lambda: request.infer(share_outputs=True)

    def precision(self) -> dict[str, int]:
        """Counted over the nodes of the graph that really runs."""
        counts: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            if told(info, "layerType") not in _MOVES:
                counts[number_format(info)] += 1
        return dict(counts)

    def close(self) -> None:
        """Drop the requests and the compiled model."""
        self._requests.clear()
        self._compiled = None


class SizedSession:
    """A model compiled for the sizes that most calls have, and once more, when others first come, for all.

    Args:
        shapes: by input, that `fixed` takes alone: its kernels are chosen for them.
        fixed: compiled for these.
        other: opens the session that takes all.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, ...]], fixed: OpenVinoSession, other: Callable[[], OpenVinoSession]
    ) -> None:
        self.threads = fixed.threads
        self._shapes, self._fixed, self._open = shapes, fixed, other
        self._other: OpenVinoSession | None = None
        self._closed, self._lock = False, threading.Lock()

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        return self._of(feeds).run(feeds, out)

    def begin(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Start a call, which goes on by itself; see `runtime.model.Model.map`."""
        return self._of(feeds).begin(feeds)

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """The library's own part; see `runtime.engines.Session`."""
        return self._of(feeds).inside(feeds)

    def precision(self) -> dict[str, int]:
        """Of the model for known sizes."""
        return self._fixed.precision()

    def close(self) -> None:
        """Close both."""
        with self._lock:
            self._closed = True
            for session in filter(None, (self._fixed, self._other)):
                session.close()

    def _of(self, feeds: Mapping[str, Array]) -> OpenVinoSession:
        if all(feeds[name].shape == shape for name, shape in self._shapes.items()):
            return self._fixed
        with self._lock:
            if self._other is None and not self._closed:
                self._other = self._open()
            return self._other or self._fixed  # which says that it is closed


def facts() -> dict[str, str]:
    """The library's version; raises EngineMissing."""
    return {"version": str(_library().__version__)}


def needs(options: Options) -> dict[str, dict[str, Any]]:
    """An IR is read by the version that wrote it and by newer ones."""
    return {"version": {"from": oldest(facts()["version"])}}


def open(files: Mapping[str, Path], specs: Specs, host: Host, options: Options) -> OpenVinoSession | SizedSession:
    """Load `files["model"]` (an IR with `files["weights"]`, or an ONNX file); without options as OpenVINO ships.

    `fixed` has sizes of named axes that most calls have: for these it is compiled first.
    """
    _check(options)
    if not (sizes := options.get("fixed")):
        return OpenVinoSession(files, specs, options, host.cores)
    shapes = {spec.name: spec.sized(sizes) for spec in specs.inputs}
    return SizedSession(
        shapes,
        OpenVinoSession(files, specs, options, host.cores, sizes),
        lambda: OpenVinoSession(files, specs, options, host.cores),
    )


def compile(onnx: Path, out: Path, options: Options) -> dict[str, Path]:
    """Convert an ONNX file to OpenVINO's IR, weights in their own precision, and see that the CPU takes it."""
    _check(options)
    ov = _library()
    try:
        model = ov.Core().read_model(str(onnx))
        ov.save_model(model, str(out / "model.xml"), compress_to_fp16=False)
    except RuntimeError as error:
        raise EngineError(f"OpenVINO cannot convert {onnx.name}: {_reason(error)}") from error
    return {"model": out / "model.xml", "weights": out / "model.bin"}


def _library() -> Any:
    """OpenVINO without its converter, which is imported where `openvino.convert_model` is asked for in this process."""
    loaded: dict[str, Any] = sys.modules
    if "openvino" in loaded:
        return library("openvino", "openvino")
    loaded[CONVERTER] = None  # OpenVINO does without, as where it is not installed
    try:
        ov = library("openvino", "openvino")
    finally:
        loaded.pop(CONVERTER, None)
    vars(ov).setdefault("__getattr__", _converter)
    return ov


def _converter(name: str) -> Any:
    if name != "convert_model":
        raise AttributeError(f"module 'openvino' has no attribute '{name}'")
    return library(CONVERTER, "openvino").convert_model


def _check(options: Options) -> None:
    check_options("openvino", options, OPTIONS)
    for key, allowed in (("precision", PRECISIONS), ("hint", HINTS), ("isa", ISAS)):
        if options.get(key) is not None and options[key] not in allowed:
            raise InputError(f"option '{key}' of openvino is {options[key]!r}; it takes {', '.join(allowed)}.")
    if not all(type(size) is int and size > 0 for size in (options.get("fixed") or {}).values()):
        raise InputError(f"option 'fixed' of openvino is {options['fixed']!r}; it takes axes with a size each.")


def properties(options: Options, cores: int) -> dict[str, Any]:
    """What `compile_model` is given for the options of an engine here."""
    if not {*options} - {"isa", "fixed"}:
        return {}
    # the hint is set always: OpenVINO would take bf16 by itself where the processor has it
    found: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": options.get("precision") or "f32",
        "PERFORMANCE_HINT": (options.get("hint") or "latency").upper(),
    }
    if (options.get("device") or "CPU") == "CPU":
        found["INFERENCE_NUM_THREADS"] = options.get("threads") or cores
    if options.get("streams"):
        found["NUM_STREAMS"] = options["streams"]
    if options.get("cache"):
        from runtime.cache import default_folder

        found["CACHE_DIR"] = str(default_folder() / "openvino")
    return found


def limit(options: Options) -> None:
    """Have kernels of older instruction sets only; raises EngineError where this process has computed already."""
    asked = options.get("isa")
    if asked is None or os.environ.get(ISA) == asked:
        return
    if _has_kernels():
        raise EngineError(f"OpenVINO is loaded in this process already, and cannot be limited to {asked} any more.")
    os.environ[ISA] = asked


def told(info: Any, key: str) -> str:
    """What a node of a compiled graph says of itself; empty where it does not."""
    try:
        value = info[key]  # OpenVINO's own map, which has no get
    except (KeyError, RuntimeError):
        return ""
    return str(value.value if hasattr(value, "value") else value)


def number_format(info: Any) -> str:
    """What such a node computes in, as a session's `precision` names it; empty where it does not say."""
    name = told(info, "runtimePrecision")
    # of a choice by a mask it is the mask's
    if name == "u8" and told(info, "layerType") == "Eltwise":
        name = told(info, "outputPrecisions").split(",")[0] or name
    return _NAMES.get(name, name)


def _has_kernels() -> bool:
    """Whether the part that computes is loaded, which comes with the first model, not with the import."""
    if "openvino" not in sys.modules:
        return False
    try:
        return KERNELS in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, where it may be
        return True


def _device(core: Any, options: Options) -> str:
    """CPU, or the device asked for; raises EngineError where OpenVINO does not find it here."""
    asked = options.get("device") or "CPU"
    if asked != "CPU":  # asking loads every plugin, and a CPU is always there
        found = list(core.available_devices)
        if not any(asked in (name, name.partition(".")[0]) for name in found):
            raise EngineError(f"OpenVINO finds no device {asked} here; it finds {', '.join(found)}.")
    return str(asked)


def _name(port: Any, specs: Sequence[TensorSpec]) -> str:
    """A port's name: of its several, the one that the manifest knows."""
    known, wanted = sorted(port.get_names()), {spec.name for spec in specs}
    return next((name for name in known if name in wanted), known[0] if known else "")


def _dtype(port: Any) -> str | None:
    """The numpy name of a port's element type; None for one that numpy has not."""
    try:
        return str(port.get_element_type().to_dtype().name)
    except (RuntimeError, TypeError, ValueError):
        return None


def _writable(value: Array) -> Array:
    """The array; a copy of a single number that may not be written, which OpenVINO alone of all arrays cannot share."""
    return value if value.ndim or value.flags.writeable else value.copy()


def _reason(error: Exception) -> str:
    """The line that says what is wrong, out of OpenVINO's dump of source places."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or ["no reason given"])[-1][:300]
