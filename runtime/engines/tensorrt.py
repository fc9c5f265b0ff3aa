"""TensorRT 10 and 11, and TensorRT for RTX, on NVIDIA GPUs. A file is a plan: a network tuned for one kind of GPU.

Precision is the graph's own: the network is strongly typed, so what is computed in fp16 or int8 is what the ONNX file
says by its dtypes and its Q/DQ pairs. There are no precision flags and there is no calibrator.
"""

import json
import logging
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from runtime.engines import Options, _cuda, check_options, check_specs, filled
from runtime.engines import _tensorrt_vendor as vendor
from runtime.engines._tensorrt_lane import Lane
from runtime.errors import EngineError, InputError
from runtime.host import Host
from runtime.tensors import Array, Specs

log = logging.getLogger(__name__)

DISTRIBUTION = "tensorrt"
# f32 is wider than for other engines: with `tf32`, TensorRT's own default, products are rounded to 10 bits
TOLERANCE = {"f32": 5e-3, "f16": 2e-2, "bf16": 0.3, "int8": 0.3, "fp8": 0.3}
# `profiles`: input name -> {"min": shape, "opt": shape, "max": shape}, for inputs with dynamic axes
LOCAL = frozenset({"timing_cache"})  # a path, which is written to
FORKABLE = tuple[str, ...]()  # a process that has a GPU open does not bear a fork
OPTIONS: dict[str, type] = {
    "profiles": dict, "sparsity": bool, "tf32": bool, "hardware_compatible": bool, "version_compatible": bool,
    "timing_cache": str, "cuda_graph": bool, "threads": int,
}  # fmt: skip
LIMITS = ("min", "opt", "max")
LARGEST = 16  # of a dynamic axis that no profile speaks of

# Layers that move or convert numbers, and so say nothing of the format that is computed in.
_MOVES = {"reformat", "noop", "shuffle", "constant", "shape", "shape_call", "signal", "wait", "memcpy"}
# As the inspector writes them, which is "Half" or "Row major linear FP16 format"; the first that fits counts.
_FORMATS = (
    ("bf16", "bf16"), ("bfloat16", "bf16"), ("fp8", "fp8"), ("int8", "int8"), ("fp16", "f16"), ("half", "f16"),
    ("fp32", "f32"), ("float", "f32"),
)  # fmt: skip


class TensorRtSession:
    """A plan on GPU 0, with a lane for each call that is under way."""

    threads = 1
    """Of the CPU: the call waits while the GPU works."""

    def __init__(self, path: Path, specs: Specs | None, options: Options) -> None:
        trt, self._cuda = vendor.find(), _cuda.find()
        self._trt = trt
        _cuda.ok(self._cuda.cudaGetDeviceCount())  # says in words that there is no driver; TensorRT would not
        try:
            plan = path.read_bytes()
        except OSError as failure:
            raise EngineError(f"TensorRT cannot read {path.name}: {failure.strerror}") from failure
        self._runtime, self._engine = _deserialize(trt, plan, options)
        engine = self._engine
        if engine is None:
            raise EngineError(f"TensorRT cannot load {path.name}: {vendor.reason(vendor.logger(trt))}")
        ordered = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._names = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in ordered}
        self._dtypes = {name: _dtype(trt, engine.get_tensor_dtype(name)) for name in ordered}
        said = {name: dtype.name for name, dtype in self._dtypes.items()}
        if specs is not None:
            check_specs(
                "TensorRT",
                specs,
                {name: said[name] for name in ordered if self._names[name]},
                {name: said[name] for name in ordered if not self._names[name]},
            )
        for name in ordered:
            if engine.is_shape_inference_io(name):
                raise EngineError(f"'{name}' sets shapes by its values; such tensors are not supported on TensorRT.")
        self._json = trt.LayerInformationFormat.JSON
        self._graphs = bool(options.get("cuda_graph"))
        self._lanes: deque[Lane] = deque([Lane(self._cuda, engine, self._names, self._dtypes)])

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        engine = self._engine
        if engine is None:
            raise EngineError("this TensorRT session is closed.")
        try:
            lane = self._lanes.pop()
        except IndexError:
            lane = Lane(self._cuda, engine, self._names, self._dtypes)
        try:
            results = lane.run(feeds, self._graphs)
        finally:
            self._lanes.append(lane)
        return filled(out, results)

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """The network alone, on arrays that are on the GPU already; see `runtime.engines.Session`."""
        if self._engine is None:
            raise EngineError("this TensorRT session is closed.")
        lane = Lane(self._cuda, self._engine, self._names, self._dtypes)
        lane.run(feeds, graphs=False)
        self._lanes.append(lane)
        return lane.again

    def layers(self, feeds: Mapping[str, Array], calls: int) -> tuple[dict[str, float], str]:
        """Milliseconds of a call by layer, from TensorRT's profiler, and its inspector's JSON of the layers."""
        lane, watch = Lane(self._cuda, self._engine, self._names, self._dtypes), vendor.stopwatch(self._trt)
        try:
            lane.run(feeds, graphs=False)
            lane.watched(watch, calls)
        finally:
            lane.close()
        told = self._engine.create_engine_inspector().get_engine_information(self._json)
        return {name: ms / calls for name, ms in watch.ms.items()}, told

    def precision(self) -> dict[str, int]:
        """Counted over the layers of the plan, as TensorRT fused them."""
        return precisions(self._engine.create_engine_inspector().get_engine_information(self._json))

    def close(self) -> None:
        """Give the GPU's memory back."""
        self._engine = None
        while self._lanes:
            self._lanes.pop().close()
        self._runtime = None


def facts() -> dict[str, str]:
    """Versions of TensorRT, CUDA and the driver, and what GPU 0 is; raises EngineMissing."""
    return {"version": str(vendor.find().__version__), **_cuda.facts()}


def needs(options: Options) -> dict[str, dict[str, Any]]:
    """A plan is of one version and one kind of GPU, but for what its options open (TensorRT's developer guide)."""
    found = facts()
    version = {"from" if options.get("version_compatible") else "is": found["version"]}
    capability = found.get("compute_capability", "")
    kind = {"from": "8.0"} if options.get("hardware_compatible") else {"is": capability}
    return {"version": version, **({"compute_capability": kind} if capability else {})}


def open(files: Mapping[str, Path], specs: Specs, host: Host, options: Options) -> TensorRtSession:
    """Load `files["model"]`, a plan; with the option `cuda_graph`, repeated shapes are launched as CUDA graphs."""
    check_options("tensorrt", options, OPTIONS)
    return TensorRtSession(files["model"], specs, options)


def compile(onnx: Path, out: Path, options: Options) -> dict[str, Path]:
    """Build a plan (`model.plan`) for the GPU of this machine, and `layers.json`, which lists what it was made of.

    `layers.json` has the layers of the network as it was parsed, and where a GPU is here those of the plan (`engine`).
    With the option `timing_cache`, a path, what was timed is kept for the next build.
    """
    check_options("tensorrt", options, OPTIONS)
    trt = vendor.find()
    if not onnx.is_file():
        raise EngineError(f"TensorRT cannot take {onnx.name}: there is no such file in {onnx.parent}.")
    logger = vendor.logger(trt)
    logger.errors.clear()
    try:
        builder = trt.Builder(logger)
    except (RuntimeError, TypeError) as error:  # pybind11's words for a null pointer
        raise EngineError(f"TensorRT cannot build here: {vendor.reason(logger)}") from error
    # TensorRT 11 knows no other kind, and ignores the flag
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        problems = [_problem(parser.get_error(index)) for index in range(parser.num_errors)]
        raise EngineError(f"TensorRT cannot take {onnx.name}: {'; '.join(problems) or vendor.reason(logger)}")
    if not network.num_outputs:  # its parser accepts any bytes at all
        raise EngineError(f"TensorRT cannot take {onnx.name}: it is not an ONNX model.")
    config = builder.create_builder_config()
    _configure(trt, config, options)
    profile = _profile(builder, network, options.get("profiles") or {})
    if profile is not None and config.add_optimization_profile(profile) < 0:
        raise EngineError(f"TensorRT refuses the shapes asked for: {vendor.reason(logger)}")
    monitor = vendor.monitor(trt, vendor.Progress(lambda words: log.info("%s", words)))
    config.progress_monitor = monitor
    kept = options.get("timing_cache")
    if kept:
        _load_timings(config, Path(kept))
    logger.errors.clear()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT cannot build {onnx.name}: {vendor.reason(logger)}")
    if kept:
        _replace(Path(kept), config.get_timing_cache().serialize())
    files = {"model": out / "model.plan", "layers": out / "layers.json"}
    files["model"].write_bytes(plan)
    files["layers"].write_text(json.dumps(_layers(trt, network, plan, options), indent=1), encoding="utf-8")
    return files


def precisions(information: str) -> dict[str, int]:
    """The number formats of a plan's layers, from its inspector's JSON; empty where the plan keeps names alone."""
    counts: Counter[str] = Counter()
    for layer in json.loads(information).get("Layers", []):
        if isinstance(layer, dict) and not moves(layer) and (found := precision(layer)):
            counts[found] += 1
    return dict(counts)


def moves(layer: Mapping[str, Any]) -> bool:
    """Whether a layer of the inspector's JSON computes nothing."""
    return str(layer.get("LayerType", "")).lower() in _MOVES


def precision(layer: Mapping[str, Any]) -> str:
    """The number format in which a layer of the inspector's JSON computes; empty where it does not say."""
    tensors = layer.get("Inputs") or layer.get("Outputs") or []
    # one key with both in TensorRT 10, "Format/Datatype"; since 11 one for each
    found = [str(value) for one in tensors for key, value in one.items() if "datatype" in key.lower()]
    known = [name for name in map(_format, found) if name]
    # a layer with int8 among its inputs multiplies in int8, whatever its scales are
    return "int8" if "int8" in known else known[0] if known else ""


def _dtype(trt: ModuleType, kind: Any) -> "np.dtype[Any]":
    try:
        found: np.dtype[Any] = np.dtype(trt.nptype(kind))
    except TypeError as error:  # bf16, fp8 and int4, which numpy has not
        raise EngineError(f"numpy has no dtype for {kind.name}; cast the model's inputs and outputs to f32.") from error
    return found


def _format(words: str) -> str:
    return next((name for sign, name in _FORMATS if sign in words.lower()), "")


def _deserialize(trt: ModuleType, plan: Any, options: Options) -> tuple[Any, Any]:
    """The runtime, which must outlive the engine, and the engine, None where TensorRT refuses the plan."""
    logger = vendor.logger(trt)
    logger.errors.clear()
    runtime = trt.Runtime(logger)
    if options.get("version_compatible"):
        runtime.engine_host_code_allowed = (
            True  # such a plan brings a runtime of its own, so only where it is asked for
        )
    try:
        return runtime, runtime.deserialize_cuda_engine(plan)
    except (RuntimeError, TypeError, ValueError) as error:
        raise EngineError(f"TensorRT cannot load the plan: {error}") from error


def _configure(trt: ModuleType, config: Any, options: Options) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector knows names alone
    if options.get("sparsity"):
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.get("tf32") is False:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.get("version_compatible"):
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.get("hardware_compatible"):
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS


def _profile(builder: Any, network: Any, asked: Mapping[str, Any]) -> Any:
    """The shapes to tune for; None where every input has one shape only.

    Raises:
        InputError: an input that the model does not have, or shapes that do not fit it.
    """
    tensors = {tensor.name: tensor for tensor in (network.get_input(i) for i in range(network.num_inputs))}
    for name in asked:
        if name not in tensors:
            raise InputError(f"there is a profile for '{name}'; the model has the inputs {', '.join(tensors)}.")
    profile = None
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        limits = asked.get(name) or {
            limit: [length if length >= 0 else LARGEST if limit == "max" else 1 for length in shape] for limit in LIMITS
        }
        _check_limits(name, shape, limits)
        if -1 in shape:
            profile = profile or builder.create_optimization_profile()
            profile.set_shape(name, *(tuple(limits[limit]) for limit in LIMITS))
    return profile


def _check_limits(name: str, shape: tuple[int, ...], limits: Any) -> None:
    if not isinstance(limits, Mapping) or set(limits) != set(LIMITS):
        raise InputError(f"the profile of '{name}' is {limits!r}; it takes a shape each for {', '.join(LIMITS)}.")
    shapes = [tuple(limits[limit]) for limit in LIMITS]
    fits = all(len(each) == len(shape) for each in shapes) and all(
        low <= best <= high and (length == -1 or low == high == length)
        for low, best, high, length in zip(*shapes, shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"the profile of '{name}' goes from {shapes[0]} over {shapes[1]} to {shapes[2]}, but the model takes "
            f"{shape}, -1 being dynamic; it must be min <= opt <= max, and the model's own length where that is fixed."
        )


def _problem(error: Any) -> str:
    """What the parser refused, with node and op."""
    words = vendor.one_line(error.desc())
    if words == "false":  # the failed condition of its own code, which says nothing
        words = "it is not supported"
    where = f"node '{error.node_name()}' ({error.node_operator()}): " if error.node_operator() else ""
    return f"{where}{words} [{error.code().name.lower().replace('_', ' ')}]"


def _load_timings(config: Any, path: Path) -> None:
    """What earlier builds measured; TensorRT itself leaves aside what was measured on another GPU or version."""
    data = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(data), False):
        log.warning("the timing cache %s is of another GPU or version; a new one takes its place", path)
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _replace(path: Path, data: Any) -> None:
    """Write a file whole or not at all: several builds may share it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    Path(temporary).replace(path)


def _layers(trt: ModuleType, network: Any, plan: Any, options: Options) -> dict[str, Any]:
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    listed = [
        {"name": each.name, "type": each.type.name, "dtype": each.get_output(0).dtype.name if each.num_outputs else ""}
        for each in layers
    ]
    found: dict[str, Any] = {"made_by": f"{trt.__name__} {trt.__version__}", "layers": listed}
    if _cuda.devices():
        runtime, engine = _deserialize(trt, plan, options)
        if engine is not None:
            inspector = engine.create_engine_inspector()
            found["engine"] = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
        del runtime
    return found
