"""ExecuTorch on the CPU, by XNNPACK: what runs on phones. Files are a .pte program, and what it takes and gives.

What XNNPACK does not take runs in ExecuTorch's portable kernels, slowly: it is counted apart.
https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-overview.html
"""

import contextlib
import json
import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any
from weakref import WeakSet

import numpy as np

from runtime.engines import Options, check_options, check_specs, filled, library
from runtime.errors import EngineError
from runtime.fitness import oldest
from runtime.host import Host
from runtime.tensors import Array, Specs

DISTRIBUTION = "executorch"
TOLERANCE = {"f32": 1e-3, "int8": 0.3}
LOCAL = frozenset[str]()
FORKABLE = ("runtime.engines.executorch:_library",)
OPTIONS: dict[str, type] = {"threads": int, "profiles": dict}
COMPILER, PORTABLE = "executorch.exir", "executorch.extension.pybindings.portable_lib"
LARGEST = 16  # of an axis that nobody limited; memory is laid out for it

# what moves or rounds numbers, and so says nothing of the format that is computed in
_MOVES = (
    "slice", "view", "reshape", "permute", "expand", "squeeze", "select", "cat", "clone", "to", "getitem", "size",
    "quantize", "split", "pad", "copy", "lift_fresh", "assert", "embedding", "flatten", "sym_", "alloc",
)  # fmt: skip


# ExecuTorch has one pool of threads for the whole process, which may not be replaced while anything computes in it. A
# method that is loaded keeps a pointer to the pool of then: none may outlive it.
_POOL = Lock()
_OPEN: "WeakSet[ExecuTorchSession]" = WeakSet()


class ExecuTorchSession:
    """A program and its method; one call at a time in a process, with the threads that this session was asked for."""

    def __init__(self, files: Mapping[str, Path], specs: Specs, options: Options, cores: int) -> None:
        self._torch, self._library = library("torch", "executorch"), _library()
        self.threads = options.get("threads") or cores
        self._name, self._method = files["model"].name, None
        try:
            ports = json.loads(files["ports"].read_text(encoding="utf-8"))
            inputs, outputs, self._precision = ports["inputs"], ports["outputs"], ports["precision"]
            self._program: Any = self._library._load_program(str(files["model"]))
        except (RuntimeError, OSError, ValueError, KeyError, TypeError) as error:
            raise EngineError(f"ExecuTorch cannot load {self._name}: {_reason(error)}") from error
        check_specs("ExecuTorch", specs, inputs, outputs)
        self._inputs, self._outputs = list(inputs), list(outputs)
        with self._alone():
            _OPEN.add(self)

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        given = self._tensors(feeds)
        with self._alone() as method:
            try:
                found = method(given)
            except RuntimeError as error:
                shapes = {name: list(value.shape) for name, value in feeds.items()}
                raise EngineError(f"ExecuTorch failed on {shapes}: {_reason(error)}") from error
        return filled(out, {name: value.numpy() for name, value in zip(self._outputs, found, strict=True)})

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """An execution of inputs that are set already; see `runtime.engines.Session`."""
        given = self._tensors(feeds)

        def call() -> None:
            with self._alone() as method:
                method.set_inputs(given)
                method.execute()

        return call

    @contextlib.contextmanager
    def _alone(self) -> Iterator[Any]:
        """The method, while no other call computes and the pool has this session's threads.

        Raises EngineError when closed, and where it cannot be loaded.
        """
        with _POOL:
            if self._program is None:
                raise EngineError("this ExecuTorch session is closed.")
            if self._library._threadpool_get_thread_count() != self.threads:
                for session in _OPEN:
                    session._method = None
                self._library._unsafe_reset_threadpool(self.threads)
            if self._method is None:
                try:
                    self._method = self._program.load_method("forward")
                except RuntimeError as error:
                    raise EngineError(f"ExecuTorch cannot load {self._name}: {_reason(error)}") from error
            yield self._method

    def _tensors(self, feeds: Mapping[str, Array]) -> list[Any]:
        # memory that may not be written is not shared, lest torch warn of it
        return [self._torch.from_numpy(np.require(feeds[name], requirements=("C", "W"))) for name in self._inputs]

    def precision(self) -> dict[str, int]:
        """Counted when it was compiled: by what XNNPACK was given, and what is left to portable kernels."""
        return dict(self._precision)

    def close(self) -> None:
        """Drop the method, once what computes in it has ended."""
        with _POOL:
            self._method = self._program = None


def facts() -> dict[str, str]:
    """The library's version; raises EngineMissing."""
    library("executorch", "executorch")
    return {"version": metadata.version("executorch")}


def needs(options: Options) -> dict[str, dict[str, Any]]:
    """A program is read by the version that wrote it and by newer ones."""
    return {"version": {"from": oldest(facts()["version"])}}


def open(files: Mapping[str, Path], specs: Specs, host: Host, options: Options) -> ExecuTorchSession:
    """Load `files["model"]`, a .pte, with `files["ports"]`."""
    check_options("executorch", options, OPTIONS)
    with _quiet():
        return ExecuTorchSession(files, specs, options, host.cores)


def compile(onnx: Path, out: Path, options: Options) -> dict[str, Path]:
    """Lower an ONNX file to a .pte: by torch's export, what XNNPACK takes to it, the rest to portable kernels.

    An axis of variable length may be as long as `profiles` says, else 16. Raises EngineError where an op is not known.
    """
    check_options("executorch", options, OPTIONS)
    with _quiet():
        library("executorch.exir", "executorch"), library("onnx", "executorch")
        library("executorch.kernels.quantized", "executorch")
        try:
            program, ports = _lowered(onnx, options.get("profiles") or {})
        except EngineError:
            raise
        except Exception as error:  # exporting, partitioning and planning share no base
            raise EngineError(f"ExecuTorch cannot compile {onnx.name}: {_reason(error)}") from error
    (out / "model.pte").write_bytes(program)
    (out / "ports.json").write_text(json.dumps(ports, indent=1) + "\n", encoding="utf-8")
    return {"model": out / "model.pte", "ports": out / "ports.json"}


def _library() -> Any:
    """What loads and runs programs; of the compiler it imports one warning, and with it would the whole compiler be."""
    loaded: dict[str, Any] = sys.modules
    if COMPILER not in loaded:
        compiler = ModuleType(COMPILER)
        compiler.__path__ = [str(Path(place) / "exir") for place in library("executorch", "executorch").__path__]
        loaded[COMPILER] = compiler
        try:
            library(PORTABLE, "executorch")
        finally:
            del loaded[COMPILER]  # whoever asks for it gets all of it
    library("executorch.kernels.quantized", "executorch")  # registers kernels for Q/DQ outside of XNNPACK
    return library(PORTABLE, "executorch")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporter, torchao and ExecuTorch say of their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _lowered(path: Path, profiles: Mapping[str, Mapping[str, list[int]]]) -> tuple[bytes, dict[str, Any]]:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from runtime.onnx_torch import OnnxModule

    module = OnnxModule(path).eval()
    axes: dict[str, Any] = {}
    longest: dict[str, int] = {}
    examples, dynamic = [], []
    for name, (dtype, shape) in module.inputs.items():
        limits = profiles.get(name, {})
        free = {place: axis for place, axis in enumerate(shape) if isinstance(axis, str)}
        for place, axis in free.items():
            low, high = (
                limits[key][place] if key in limits else value for key, value in (("min", 1), ("max", LARGEST))
            )
            if axis not in longest:
                longest[axis] = _prime(high, longest.values())
                axes[axis] = torch.export.Dim(f"axis_{len(axes)}", min=low, max=longest[axis])
        dynamic.append({place: axes[axis] for place, axis in free.items()})
        # Where torch compares a length with another (of channels, say), what is shorter in the example, or equal, is so
        # for good. So the example has the longest, for which memory is laid out, and a prime, which no layer has.
        sizes = [n if isinstance(n, int) else longest[n] for n in shape]
        examples.append(torch.zeros(sizes, dtype=getattr(torch, dtype)))
    with torch.no_grad():
        outputs = module(*examples)
        exported = torch.export.export(module, tuple(examples), dynamic_shapes={"inputs": tuple(dynamic)})
    formats = [(_op(node), "int8" if _in_int8(node) else "f32") for node in exported.graph.nodes if _computes(node)]
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    left = [node for node in lowered.exported_program().graph.nodes if node.op == "call_function"]
    if any("per_channel" in str(node.target) for node in left):  # of 1.5, the kernel for it leaves its answer unwritten
        raise EngineError("it has layers in int8 that XNNPACK does not take; let them compute in float (`exclude`).")
    counts = Counter[str]()
    for op in (_op(node) for node in left if _computes(node) and "delegate" not in str(node.target)):
        same = [one for one in formats if one[0] == op] or formats  # an op that was taken apart has another name
        formats.remove(same[0])
        counts["f32 in portable kernels"] += 1
    counts.update(format for _, format in formats)
    dtypes = dict(zip(module.outputs, (str(one.dtype).removeprefix("torch.") for one in outputs), strict=True))
    ports = {
        "inputs": {name: dtype for name, (dtype, _) in module.inputs.items()},
        "outputs": dtypes,
        "precision": dict(counts),
    }
    return lowered.to_executorch().buffer, ports


def _prime(least: int, taken: Iterable[int]) -> int:
    """The first prime number above `least` that is not taken."""
    found = max(least, 2) + 1
    while found in taken or any(found % n == 0 for n in range(2, int(found**0.5) + 1)):
        found += 1
    return found


def _computes(node: Any) -> bool:
    return node.op == "call_function" and not any(word in str(node.target) for word in _MOVES)


def _op(node: Any) -> str:
    """`aten.mean.dim`, before lowering and after."""
    found = re.search(r"aten\.[\w.]+", str(node.target))
    return found[0] if found else str(node.target)


def _in_int8(node: Any) -> bool:
    """It takes integers and gives integers, whatever activation is fused between."""
    before, after = node, node
    while _fused(before):
        before = before.all_input_nodes[0]
    while len(after.users) == 1 and _fused(next(iter(after.users))):
        after = next(iter(after.users))
    given = before.all_input_nodes[:1]
    users = [str(user.target) for user in after.users]
    return any("dequantize" in str(one.target) for one in given) and all(".quantize" in user for user in users)


def _fused(node: Any) -> bool:
    return node.op == "call_function" and any(word in str(node.target) for word in ("relu", "hardtanh"))


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]
