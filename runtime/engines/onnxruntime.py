"""ONNX Runtime on the CPU. A file is an ONNX model, optimized ahead of time as far as it stays portable."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.engines import Options, check_options, check_specs, filled, library, onnx_files
from runtime.errors import EngineError, InputError
from runtime.fitness import oldest
from runtime.host import Host
from runtime.host import facts as host_facts
from runtime.tensors import Array, Specs

DISTRIBUTION = "onnxruntime"
TOLERANCE = {"f32": 1e-3, "f16": 2e-2, "int8": 0.3}
LOCAL = frozenset[str]()
FORKABLE = ("onnxruntime",)
OPTIONS: dict[str, type] = {
    "threads": int, "spinning": bool, "fuse": bool, "graph": str, "providers": list, "allow_fallback": bool,
}  # fmt: skip
GRAPHS = ("portable", "host")  # how far a file is optimized ahead of time; for this processor no other can run it
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# by which MLAS lays out the blocks of channels in a graph that was optimized for a processor
_LAYOUT = ("avx512f", "avx2", "asimd")

IN_INT8 = 4  # the accuracy level of MatMulNBits at which it rounds activations too

# Nodes that move or convert numbers, and so say nothing of the format that is computed in.
_MOVES = {
    "QuantizeLinear", "DequantizeLinear", "Cast", "Constant", "Reshape", "Transpose", "Flatten", "Squeeze",
    "Unsqueeze", "Shape", "Gather", "Slice", "Concat", "Pad", "Identity", "Expand",
}  # fmt: skip

# ONNX Runtime's names of element types that are not numpy's with "tensor()" around them
_DTYPES = {f"tensor({name})": name for name in ("float16", "int8", "int16", "int32", "int64", "uint8", "bool")} | {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
}


class OnnxRuntimeSession:
    """An `InferenceSession`; its `run` may be called from several threads.

    `providers`: with options of their own each; else those of `options`, or the CPU's.
    """

    def __init__(
        self, path: Path, specs: Specs, options: Options, cores: int,
        providers: Sequence[tuple[str, Mapping[str, str]]] = (),
    ) -> None:  # fmt: skip
        self._ort = ort = library("onnxruntime", "onnxruntime")
        self.threads = options.get("threads") or cores
        self._path = path
        given = providers or [(name, {}) for name in options.get("providers") or [CPU]]
        asked = [name for name, _ in given]
        self._on_gpu = asked[0] == CUDA
        if unknown := [name for name in asked if name not in ort.get_available_providers()]:
            there = ", ".join(ort.get_available_providers())
            raise EngineError(f"ONNX Runtime has no execution provider {unknown[0]} here; it has {there}.")
        chosen = settings(ort, options, cores)
        if asked != [CPU]:
            chosen.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        try:
            self._session: Any = ort.InferenceSession(
                str(path), chosen, providers=asked, provider_options=[dict(more) for _, more in given]
            )
        except Exception as error:  # its own exceptions share no base but Exception
            raise EngineError(f"ONNX Runtime cannot load {path.name}: {_first_line(error)}") from error
        if asked != [CPU] and not options.get("allow_fallback"):
            _check_providers(asked, self._session)
        inputs = {port.name: _DTYPES.get(port.type) for port in self._session.get_inputs()}
        outputs = {port.name: _DTYPES.get(port.type) for port in self._session.get_outputs()}
        check_specs("ONNX Runtime", specs, inputs, outputs)
        self._outputs = list(outputs)
        # without its Python around it, which checks names once more and takes the CPU in silence where a GPU fails: of
        # a call that leaves nothing of Python in the caches that is 6 us
        self._call: Any = getattr(self._session, "_sess", self._session).run

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        try:
            values = self._call(self._outputs, feeds, None)
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {_first_line(error)}") from error
        results = {}
        for place, name in enumerate(self._outputs):  # neither a frame nor keywords, which cost a cold call more
            results[name] = values[place]
        return results if out is None else filled(out, results)

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """A run on arrays that are bound already; see `runtime.engines.Session`."""
        binding = self._session.io_binding()
        place = "cuda" if self._on_gpu else "cpu"
        try:
            for name, value in feeds.items():
                if self._on_gpu:
                    binding.bind_ortvalue_input(name, self._ort.OrtValue.ortvalue_from_numpy(value, place, 0))
                else:
                    binding.bind_cpu_input(name, value)
            for name in self._outputs:
                binding.bind_output(name, place)
        except Exception as error:
            raise EngineError(f"ONNX Runtime cannot bind the arrays: {_first_line(error)}") from error
        return lambda: self._session.run_with_iobinding(binding)

    def precision(self) -> dict[str, int]:
        """Counted over the nodes of the graph as it is fused for running; needs the package onnx."""
        try:
            import onnx
        except ImportError:
            return {}
        if self._on_gpu:  # Q/DQ runs there as it is written
            held = onnx.load(self._path, load_external_data=False).graph.initializer
            name = "f16" if any(one.data_type == onnx.TensorProto.FLOAT16 for one in held) else "f32"
            return dict(Counter(
                name if part.ep_name == CUDA else f"{name} on the CPU"
                for part in self._session.get_provider_graph_assignment_info()
                for node in part.get_nodes() if node.op_type not in _MOVES
            ))  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            fused = Path(folder) / "fused.onnx"
            _fuse(self._path, fused)
            graph = onnx.load(fused, load_external_data=False).graph
        half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in graph.initializer)
        counts: Counter[str] = Counter()
        for node in graph.node:
            if node.op_type in _MOVES:
                continue
            quantized = node.op_type.startswith(("QLinear", "QGemm", "DynamicQuantize")) or node.op_type.endswith(
                ("Integer", "IntegerToFloat")
            )
            name = "int8" if quantized else "f16" if half else "f32"
            if node.op_type == "MatMulNBits":
                facts = {one.name: one.i for one in node.attribute}
                name = "int8" if facts.get("accuracy_level") == IN_INT8 else f"f32 with int{facts['bits']} weights"
            counts[name] += 1
        return dict(counts)

    def close(self) -> None:
        """Drop the session."""
        self._session = self._call = None


def settings(ort: Any, options: Options, cores: int) -> Any:
    """Its `SessionOptions` for the options of an engine here."""
    found = ort.SessionOptions()
    found.log_severity_level = 3
    if options:  # with none at all this is ONNX Runtime as its vendor ships it
        found.intra_op_num_threads = options.get("threads") or cores
        if options.get("spinning") is False:
            found.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if options.get("fuse") is False:  # each node as the file says: the judge of other engines
            found.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return found


def _check_providers(asked: Sequence[str], session: Any) -> None:
    """Raise EngineError where a provider that was asked for runs no node: ONNX Runtime takes another in silence."""
    counts = Counter[str]()
    for part in session.get_provider_graph_assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    if idle := [name for name in asked if not counts[name] and name != CPU]:
        said = ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none at all"
        raise EngineError(
            f"the execution provider {idle[0]} was asked for and runs no node (nodes by provider: {said}); "
            "allow_fallback = true takes it so."
        )


def facts() -> dict[str, str]:
    """The library's version; raises EngineMissing."""
    return {"version": str(library("onnxruntime", "onnxruntime").__version__)}


def needs(options: Options) -> dict[str, dict[str, Any]]:
    """A fused file has ops of ONNX Runtime's own, which an older one need not have, and may be laid out for a CPU."""
    if not options:
        return {}
    found: dict[str, dict[str, Any]] = {"version": {"from": oldest(facts()["version"])}}
    if options.get("graph") == "host":
        here = host_facts(gpus=False).instruction_sets
        found["layout"] = {name: name in here for name in _LAYOUT}
    return found


def open(files: Mapping[str, Path], specs: Specs, host: Host, options: Options) -> OnnxRuntimeSession:
    """Load `files["model"]`; without options exactly as ONNX Runtime does by itself."""
    _check(options)
    return OnnxRuntimeSession(files["model"], specs, options, host.cores)


def compile(onnx: Path, out: Path, options: Options) -> dict[str, Path]:
    """Fuse the graph ahead of time: as far as it stays portable, or, with `graph = "host"`, for this processor.

    With no options the file is left as it is: that is what ONNX Runtime's users run by default.
    """
    _check(options)
    if options:
        _fuse(onnx, out / "model.onnx", tied=options.get("graph") == "host")
        return onnx_files(out / "model.onnx")
    return {role: Path(shutil.copyfile(part, out / part.name)) for role, part in onnx_files(onnx).items()}


def _check(options: Options) -> None:
    check_options("onnxruntime", options, OPTIONS)
    if options.get("graph") not in (None, *GRAPHS):
        raise InputError(f"option 'graph' of onnxruntime is {options['graph']!r}; it takes {', '.join(GRAPHS)}.")
    if not all(type(name) is str for name in options.get("providers") or ()):
        raise InputError("option 'providers' of onnxruntime takes names of execution providers.")


def _fuse(onnx: Path, out: Path, tied: bool = False) -> None:
    """Write the graph as ONNX Runtime fuses it, weights of a large model beside it.

    Level 'extended' is the last that is not `tied` to one processor.
    """
    ort = library("onnxruntime", "onnxruntime")
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    levels = ort.GraphOptimizationLevel
    settings.graph_optimization_level = levels.ORT_ENABLE_ALL if tied else levels.ORT_ENABLE_EXTENDED
    settings.optimized_model_filepath = str(out)
    if (onnx.parent / f"{onnx.name}.data").exists():
        settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", out.name + ".data")
    try:
        ort.InferenceSession(str(onnx), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EngineError(f"ONNX Runtime cannot load {onnx.name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
