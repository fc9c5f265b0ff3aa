"""What a user would pick instead. One file a peer; look-up lists this folder.

    its docstring    the page of the documentation that it follows
    VARIANTS         settings by name, as the documentation offers them; the first alone for --quick
    prepare(task, **settings) -> list[Way]

`prepare` runs in a process of its own, so that a vendor's crash ends that alone. Of the variants that lose no more than
is allowed the fastest way, by a short measurement, is what the peer enters with.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from runtime import host
from runtime.engines import library, silence
from runtime.tensors import Array, Specs

# what keeps Olive and what it loads from reporting to their makers
SILENT = {"OLIVE_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
RAW = "_raw"  # behind the name of an output that is still to be decoded
OURS = "optimize"  # with its targets behind it where they are several


@dataclass(frozen=True)
class Task:
    """What every peer is given, in plain values.

    Attributes:
        model: the user's, as `ModelSpec.contender` has it.
        onnx: the same in ONNX, fp32.
        specs: its inputs and outputs.
        calibrate: an .npz with the samples that quantizers may look at, by input.
        validate: an .npz with those that selection may look at.
        labels: of these, an .npy.
        metric: its name, or file.py:function.
        max_drop: in the metric's unit.
        batch: at which latency is measured.
        out: a folder to write into.
        limit_s: that it may take; the process is ended then, and those that it started have to end by themselves.
        olive: the Python of an environment that has Olive; empty for none.
    """

    model: Mapping[str, Any]
    onnx: str
    specs: Mapping[str, Any]
    calibrate: str
    validate: str
    labels: str
    metric: str
    better: str | None
    max_drop: float
    batch: int
    out: str
    limit_s: float
    olive: str = ""

    def samples(self, place: str) -> Iterator[dict[str, Array]]:
        """The feeds in an .npz, a sample each; raises ValueError for a model whose batch is baked in and not 1."""
        sizes = [spec.shape[0] for spec in Specs.from_json(self.specs).inputs]
        if any(isinstance(size, int) and size != 1 for size in sizes):
            raise ValueError(f"the model takes exactly {sizes[0]} samples a call")
        with np.load(place) as stored:
            arrays = dict(stored)
        for row in range(len(next(iter(arrays.values())))):
            yield {name: value[row : row + 1] for name, value in arrays.items()}

    @property
    def torch_model(self) -> Mapping[str, Any]:
        """The user's; raises ValueError where it is none of torch."""
        if self.model["source"] != "torch":
            raise ValueError("it is for torch models, and this is none")
        return self.model

    @property
    def transformer(self) -> bool:
        """Whether it normalizes layers, as transformers do."""
        import onnx

        graph = onnx.load(self.onnx, load_external_data=False).graph
        return any(node.op_type == "LayerNormalization" for node in graph.node)


@dataclass(frozen=True)
class Way:
    """One way to run what was prepared: how it is opened, as `runtime.contender.Contender` has it.

    Attributes:
        name: a variant's ways whose names begin with the same word answer alike, and the first is judged for them.
        timed: arguments that are others where it is timed: of a model whose batch is fixed by then.
    """

    name: str
    opener: str
    arguments: Mapping[str, Any]
    timed: Mapping[str, Any] = field(default_factory=dict)


def prepared(peer: str, task: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """For `runtime.contender.call`: a variant of a peer, and the memory that preparing it took at most."""
    from runtime.listing import get

    os.environ.update(SILENT)
    silence()
    given = Task(**task)
    Path(given.out).mkdir(parents=True, exist_ok=True)
    ways = get(__name__, peer, "peer").prepare(given, **settings)
    return {"ways": [asdict(way) for way in ways], "peak_memory_bytes": peak_memory()}


def peak_memory() -> int:
    """The most that this process, or one that it started and that has ended, has held, in bytes."""
    import resource

    from runtime import worker

    # its own by the kernel's mark since it began: what getrusage says of itself has its parent's from before that
    return max(worker.peak_memory(), 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def thread_counts() -> list[int]:
    """What is worth a try beside the default of an engine, which is every core."""
    cores = host.cores()
    return sorted({1, max(1, cores // 2)} - {cores})


def on_onnxruntime(task: Task, onnx: Path) -> list[Way]:
    """An ONNX file with ONNX Runtime's defaults and with fewer threads."""
    ways = []
    for threads in (0, *thread_counts()):
        name = f"onnxruntime threads={threads}" if threads else "onnxruntime"
        ways.append(Way(name, "rivals:OnnxRuntime", {"path": str(onnx), "threads": threads}))
    return ways


class OnnxRuntime:
    """An `InferenceSession`, called as its documentation calls it; 0 threads are its own choice."""

    def __init__(self, path: str, threads: int) -> None:
        ort: Any = library("onnxruntime", "onnxruntime")
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        self.threads = threads or host.cores()
        self._session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self._outputs = [port.name for port in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        values, results = self._session.run(None, feeds), {}
        for place, name in enumerate(self._outputs):  # as our engine names them: users need no names, so no dearer way
            results[name] = values[place]
        return results


class Decoded:
    """A session and what decodes its outputs, by ONNX Runtime in one thread: our engines have that in their graph."""

    def __init__(self, opener: str, arguments: Mapping[str, Any], decode: str) -> None:
        module, _, function = opener.partition(":")
        self._session = getattr(import_module(module), function)(**arguments)
        self._decode = OnnxRuntime(decode, 1)
        self.threads = self._session.threads

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Decoded outputs by name."""
        return self._decode.run({name + RAW: value for name, value in self._session.run(feeds).items()})


def on_openvino(task: Task, model: Any, precision: str | None = None) -> list[Way]:
    """An OpenVINO model as it ships and with fewer threads; with the batch left open, and fixed where it is timed."""
    import openvino as ov

    out = Path(task.out)
    ov.save_model(model, out / "model.xml")
    files = {"model": str(out / "model.xml"), "weights": str(out / "model.bin")}
    default = "bf16" if {"avx512_bf16", "amx_bf16"} & set(host.facts(gpus=False).instruction_sets) else "f32"
    more = [{"threads": count, "precision": precision or default, "hint": "latency"} for count in thread_counts()]
    options: list[dict[str, Any]] = [{"precision": precision} if precision else {}, *more]
    ways = []
    for one in options:
        name = " ".join(["openvino", *(f"{key}={value}" for key, value in one.items())])
        arguments = {"engine": "openvino", "files": files, "specs": task.specs, "options": one}
        ways.append(Way(name, "runtime.worker:open_engine", arguments))
    shapes = {spec.name: spec.shape for spec in Specs.from_json(task.specs).inputs}
    if not any(isinstance(size, str) for shape in shapes.values() for size in shape):
        return ways
    still = ov.Core().read_model(out / "model.xml")
    still.reshape({name: [task.batch if type(size) is str else size for size in s] for name, s in shapes.items()})
    ov.save_model(still, out / "fixed.xml")
    fixed = {"files": {"model": str(out / "fixed.xml"), "weights": str(out / "fixed.bin")}}
    return [*ways, *(Way(f"{way.name} batch={task.batch}", way.opener, way.arguments, fixed) for way in ways)]


class Recorded:
    """A session that answers from an .npz, in order: the original, which need not be run again for each peer."""

    threads = 1

    def __init__(self, place: str) -> None:
        with np.load(place) as stored:
            self._outputs, self._seen = dict(stored), 0

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The answers to the next samples, as many as are given."""
        first, self._seen = self._seen, self._seen + len(next(iter(feeds.values())))
        return {name: value[first : self._seen] for name, value in self._outputs.items()}
