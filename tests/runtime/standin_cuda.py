"""Stand-ins for CUDA and for TensorRT's running half, in ordinary memory: what a session does with them is tested.

They know what the session must get right: addresses that are alive, copies in the right direction and of the right
length, shapes within the profile, nothing of a stream's work done before it is waited for, graphs that replay what was
recorded. They say nothing of a GPU.
"""

import ctypes
import enum
import json
from types import ModuleType, SimpleNamespace

import numpy as np


def cuda() -> ModuleType:
    """In the place of `cuda.bindings.runtime`; `alive` maps addresses to what holds them."""
    module = ModuleType("cuda.bindings.runtime")
    module.alive, module.events, module.pending = {}, [], {}
    module.streams, module.graphs = set(), {}
    module.cudaStreamNonBlocking = 1
    module.cudaMemcpyKind = enum.IntEnum("Kind", {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2})
    module.cudaStreamCaptureMode = enum.IntEnum("Mode", {"cudaStreamCaptureModeThreadLocal": 1})
    module.fail = None  # a function's name that then gives an error
    recording = {}

    def allocate(kind):
        def call(size):
            if module.fail == kind:
                return 2, None
            memory = (ctypes.c_uint8 * size)()
            address = ctypes.addressof(memory)
            module.alive[address] = kind, memory
            return 0, address

        return call

    def release(kind):
        def call(address):
            assert module.alive.pop(address)[0] == kind
            return (0,)

        return call

    def enqueue(stream, work):
        recording.get(stream, module.pending.setdefault(stream, [])).append(work)

    def copy(target, source, size, kind, stream):
        wanted = ("host", "device") if kind == 1 else ("device", "host")
        for address, place in zip((source, target), wanted, strict=True):
            assert module.alive[address][0] == place
            assert len(module.alive[address][1]) >= size
        enqueue(stream, lambda: ctypes.memmove(target, source, size))
        return (0,)

    def new_stream(flags):
        stream = 1000 + len(module.streams)
        module.streams.add(stream)
        return 0, stream

    def synchronize(stream):
        for work in module.pending.pop(stream, []):
            work()
        return (0,)

    def begin(stream, mode):
        recording[stream] = []
        return (0,)

    def end(stream):
        if module.fail == "capture":
            recording.pop(stream)
            return 900, None
        graph = 5000 + len(module.events)
        module.graphs[graph] = recording.pop(stream)
        module.events.append("captured")
        return 0, graph

    def launch(graph, stream):
        module.events.append("launched")
        for work in module.graphs[graph - 100000]:
            enqueue(stream, work)
        return (0,)

    def drop(graph):
        del module.graphs[graph - 100000]
        return (0,)

    module.cudaGetDeviceCount = lambda: (0, 1)
    attribute = {"cudaDevAttrComputeCapabilityMajor": 75, "cudaDevAttrComputeCapabilityMinor": 76}
    module.cudaDeviceAttr = enum.IntEnum("Attribute", attribute)
    module.cudaDeviceGetAttribute = lambda kind, device: (0, {75: 8, 76: 7}[int(kind)])
    module.cudaDriverGetVersion, module.cudaRuntimeGetVersion = (lambda: (0, 12060)), (lambda: (0, 13000))
    module.cudaGetErrorString = lambda code: (0, b"out of memory")
    module.cudaMalloc, module.cudaMallocHost = allocate("device"), allocate("host")
    module.cudaFree, module.cudaFreeHost = release("device"), release("host")
    module.cudaMemcpyAsync, module.enqueue = copy, enqueue
    module.cudaStreamCreateWithFlags, module.cudaStreamSynchronize = new_stream, synchronize
    module.cudaStreamDestroy = lambda stream: module.streams.discard(stream) or (0,)
    module.cudaStreamBeginCapture, module.cudaStreamEndCapture = begin, end
    module.cudaGraphInstantiate = lambda graph, flags: (0, graph + 100000)
    module.cudaGraphDestroy = lambda graph: (0,)
    module.cudaGraphLaunch, module.cudaGraphExecDestroy = launch, drop
    return module


class Network:
    """y (batch, 2) = the sums of x's halves (batch, 4), both float32, batch 1 to 8; one execution context a time."""

    def __init__(self, driver, module):
        self.ends = {"x": (4,), "y": (2,)}
        self.driver, self.module = driver, module
        self.num_io_tensors = 2
        self.contexts = 0
        self.unknown_output = False

    def get_tensor_name(self, index):
        return list(self.ends)[index]

    def get_tensor_mode(self, name):
        return self.module.TensorIOMode.INPUT if name == "x" else self.module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return np.float32

    def is_shape_inference_io(self, name):
        return False

    def get_tensor_profile_shape(self, name, index):
        return [(1, 4), (1, 4), (8, 4)]

    def create_execution_context(self):
        self.contexts += 1
        return Context(self)

    def create_engine_inspector(self):
        layers = [
            {"Name": "Reformat x", "LayerType": "Reformat", "Inputs": [{"Name": "x", "Format/Datatype": "Float"}]},
            {"Name": "sum", "LayerType": "kgen", "Inputs": [{"Name": "x", "Format/Datatype": "Float"}]},
        ]
        return SimpleNamespace(
            get_engine_information=lambda form: json.dumps({"Layers": layers, "Bindings": ["x", "y"]})
        )


class Context:
    def __init__(self, network):
        self.network, self.batch, self.addresses, self.busy = network, None, {}, False
        self.profiler = None

    def set_input_shape(self, name, shape):
        fits = name == "x" and len(shape) == 2 and shape[1] == 4 and 1 <= shape[0] <= 8
        self.batch = shape[0] if fits else None
        return fits

    def infer_shapes(self):
        return []

    def get_tensor_shape(self, name):
        return (-1, 2) if self.network.unknown_output else (self.batch, *self.network.ends[name])

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        batch, addresses = self.batch, dict(self.addresses)

        def work():
            assert not self.busy, "one context in two calls at once"
            self.busy = True
            x, y = (self._view(addresses[name], (batch, *end)) for name, end in self.network.ends.items())
            y[:] = x.reshape(batch, 2, 2).sum(2)
            self.busy = False
            if self.profiler:
                for name, ms in (("Reformat x", 0.25), ("sum", 1.0)):
                    self.profiler.report_layer_time(name, ms)

        self.network.driver.enqueue(stream, work)
        return True

    def _view(self, address, shape):
        kind, memory = self.network.driver.alive[address]
        assert kind == "device"
        return np.frombuffer(memory, np.float32)[: int(np.prod(shape))].reshape(shape)


def tensorrt(driver) -> ModuleType:
    """In the place of `tensorrt`: any plan that begins with `plan` is a `Network`."""
    module = ModuleType("tensorrt")
    module.__version__ = "10.3.0"
    module.TensorIOMode = enum.Enum("TensorIOMode", "NONE INPUT OUTPUT")
    module.LayerInformationFormat = enum.Enum("LayerInformationFormat", "ONELINE JSON")
    module.nptype = lambda kind: kind
    module.network = Network(driver, module)

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class IProfiler:
        pass

    module.IProfiler = IProfiler

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger):
            self.logger = logger
            module.runtime = self

        def deserialize_cuda_engine(self, plan):
            if plan[:4] == b"plan":
                return module.network
            self.logger.log(ILogger.ERROR, "IRuntime::x: Error Code 1: Serialization (no plan. In y at /_src/z.cpp:1)")
            return None

    module.ILogger, module.Runtime = ILogger, Runtime
    return module
