"""Memory and streams on an NVIDIA GPU, by cuda-python's runtime API, its error codes turned into EngineError."""

import ctypes
from types import ModuleType
from typing import Any

import numpy as np

from runtime.engines import library
from runtime.errors import EngineError, EngineMissing
from runtime.tensors import Array

SMALLEST = 256  # bytes: TensorRT wants an address even for an empty tensor


def find() -> ModuleType:
    """cuda-python's runtime API.

    Raises:
        EngineMissing: it is not installed.
    """
    return library("cuda.bindings.runtime", "tensorrt")


def devices() -> int:
    """The GPUs that CUDA can use here; 0 without cuda-python or a driver."""
    try:
        count: int = ok(find().cudaGetDeviceCount())
    except EngineError:
        return 0
    return count


def facts() -> dict[str, str]:
    """`compute_capability` of GPU 0, the `driver`'s CUDA version and that of the runtime (`cuda`); {} without a GPU."""
    if not devices():
        return {}
    cuda = find()
    which = cuda.cudaDeviceAttr
    major = ok(cuda.cudaDeviceGetAttribute(which.cudaDevAttrComputeCapabilityMajor, 0))
    minor = ok(cuda.cudaDeviceGetAttribute(which.cudaDevAttrComputeCapabilityMinor, 0))
    driver, runtime = ok(cuda.cudaDriverGetVersion()), ok(cuda.cudaRuntimeGetVersion())
    return {
        "compute_capability": f"{major}.{minor}",
        "driver": f"{driver // 1000}.{driver % 1000 // 10}",
        "cuda": f"{runtime // 1000}.{runtime % 1000 // 10}",
    }


def ok(answer: tuple[Any, ...]) -> Any:
    """What a CUDA call gave beside its error code.

    Raises:
        EngineError: the code is not success; the message is CUDA's.
    """
    code, *values = answer
    if int(code) == 0:
        return values[0] if values else None
    try:
        _, text = find().cudaGetErrorString(code)
    except EngineMissing:
        text = str(code)
    words = text.decode() if isinstance(text, bytes) else text
    if "driver version is insufficient" in words:
        words += " (or there is no driver at all: see nvidia-smi)"
    raise EngineError(f"CUDA: {words}")


class Buffer:
    """One tensor's bytes on the device, with page-locked bytes on the host beside them.

    Page-locked (pinned), because only such memory is copied asynchronously. It grows and never shrinks.

    Attributes:
        device: the address on the device.
        host: the address on the host.
    """

    def __init__(self, cuda: ModuleType) -> None:
        self._cuda = cuda
        self._capacity = 0
        self.device = 0
        self.host = 0
        self.nbytes = 0
        self.view: Array = np.empty(0, np.uint8)

    def shape(self, shape: tuple[int, ...], dtype: "np.dtype[Any]") -> None:
        """Make `view` an array of this shape and dtype over the host's bytes; the addresses may change.

        Raises:
            EngineError: there is not enough memory.
        """
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self.nbytes > self._capacity or not self.device:
            self.free()
            wanted = max(self.nbytes, SMALLEST)
            self.device = int(ok(self._cuda.cudaMalloc(wanted)))
            self.host = int(ok(self._cuda.cudaMallocHost(wanted)))
            self._capacity = wanted
        memory: Any = (ctypes.c_uint8 * self._capacity).from_address(self.host)
        self.view = np.frombuffer(memory, np.uint8)[: self.nbytes].view(dtype).reshape(shape)

    def upload(self, stream: Any) -> None:
        """Begin to copy to the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        ok(self._cuda.cudaMemcpyAsync(self.device, self.host, self.nbytes, kind, stream))

    def download(self, stream: Any) -> None:
        """Begin to copy from the device."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        ok(self._cuda.cudaMemcpyAsync(self.host, self.device, self.nbytes, kind, stream))

    def free(self) -> None:
        """Give both memories back; the view is empty afterwards."""
        self.view = np.empty(0, np.uint8)
        device, host, self.device, self.host, self._capacity = self.device, self.host, 0, 0, 0
        if device:
            ok(self._cuda.cudaFree(device))
        if host:
            ok(self._cuda.cudaFreeHost(host))


def new_stream(cuda: ModuleType) -> Any:
    """A stream that does not wait for the default one."""
    return ok(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking))
