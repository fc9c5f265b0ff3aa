"""One call of a TensorRT plan at a time: shapes, buffers, the launch, and its recording as a CUDA graph."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from runtime.engines import _cuda
from runtime.errors import EngineError
from runtime.tensors import Array


class Lane:
    """What one call at a time needs: an execution context, a stream, a buffer for each tensor."""

    def __init__(self, cuda: ModuleType, engine: Any, names: Mapping[str, bool], dtypes: Mapping[str, Any]) -> None:
        self._cuda = cuda
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError("TensorRT cannot make an execution context: the GPU has too little free memory.")
        self._inputs = [name for name, is_input in names.items() if is_input]
        self._outputs = [name for name, is_input in names.items() if not is_input]
        self._dtypes = dtypes
        self._stream = _cuda.new_stream(cuda)
        self._buffers = {name: _cuda.Buffer(cuda) for name in names}
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._graph: Any = None

    def run(self, feeds: Mapping[str, Array], graphs: bool) -> dict[str, Array]:
        """Outputs by name, copied out of the buffers; with `graphs` a repeated shape is one launch of a CUDA graph.

        Raises:
            EngineError: a shape outside of the plan's profile, or CUDA failed.
        """
        shapes = tuple(feeds[name].shape for name in self._inputs)
        if shapes != self._shapes:
            self._shapes = None  # should the next line fail
            self._prepare(feeds)
            self._shapes = shapes
        for name in self._inputs:
            np.copyto(self._buffers[name].view, feeds[name])
        if self._graph is not None:
            _cuda.ok(self._cuda.cudaGraphLaunch(self._graph, self._stream))
        else:
            self._enqueue()
        _cuda.ok(self._cuda.cudaStreamSynchronize(self._stream))
        results = {name: self._buffers[name].view.copy() for name in self._outputs}
        if graphs and self._graph is None:
            self._capture()  # after a plain call: TensorRT sets itself up in the first one, which cannot be recorded
        return results

    def again(self) -> None:
        """The network once more on what the last call has uploaded, nothing copied.

        Raises:
            EngineError: it cannot be started, or CUDA failed.
        """
        self._execute()
        _cuda.ok(self._cuda.cudaStreamSynchronize(self._stream))

    def watched(self, profiler: Any, calls: int) -> None:
        """`again` so often, with a profiler that is told each layer's time; it must outlive this lane."""
        self._context.profiler = profiler
        for _ in range(calls):
            self.again()

    def close(self) -> None:
        """Give the memory back."""
        self._drop_graph()
        self._context = None
        for buffer in self._buffers.values():
            buffer.free()
        _cuda.ok(self._cuda.cudaStreamDestroy(self._stream))

    def _prepare(self, feeds: Mapping[str, Array]) -> None:
        """Set the shapes, and addresses of buffers that are large enough."""
        context, engine = self._context, self._engine
        self._drop_graph()  # it holds the old shapes and addresses
        for name in self._inputs:
            shape = tuple(feeds[name].shape)
            if not context.set_input_shape(name, shape):
                low, _, high = (tuple(dims) for dims in engine.get_tensor_profile_shape(name, 0))
                raise EngineError(
                    f"the input '{name}' has the shape {shape}; this plan takes {low} to {high}: compile it again with "
                    "wider axes."
                )
        lacking = context.infer_shapes()
        if lacking:
            raise EngineError(f"TensorRT cannot tell the shapes of {', '.join(lacking)}.")
        for name, buffer in self._buffers.items():
            shape = feeds[name].shape if name in self._inputs else tuple(context.get_tensor_shape(name))
            if any(length < 0 for length in shape):
                raise EngineError(
                    f"the length of the output '{name}' depends on the values, not on the shapes: {shape}; such "
                    "outputs are not supported on TensorRT."
                )
            buffer.shape(shape, self._dtypes[name])
            if not context.set_tensor_address(name, buffer.device):
                raise EngineError(f"TensorRT does not take the buffer of '{name}'.")

    def _enqueue(self) -> None:
        for name in self._inputs:
            self._buffers[name].upload(self._stream)
        self._execute()
        for name in self._outputs:
            self._buffers[name].download(self._stream)

    def _execute(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise EngineError("TensorRT could not start the network; its log has the reason.")

    def _capture(self) -> None:
        """Record copies and network as one graph. Copies use the same buffers each time, so they can be in it."""
        cuda = self._cuda
        # thread-local: other threads may allocate at the same time, which would spoil a global capture
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _cuda.ok(cuda.cudaStreamBeginCapture(self._stream, mode))
        try:
            try:
                self._enqueue()
            finally:
                recorded = cuda.cudaStreamEndCapture(self._stream)
            graph = _cuda.ok(recorded)
        except EngineError as error:  # loops, and what asks the host in between
            raise EngineError(
                f"this network cannot be a CUDA graph ({error}); leave out the option cuda_graph."
            ) from error
        self._graph = _cuda.ok(cuda.cudaGraphInstantiate(graph, 0))
        _cuda.ok(cuda.cudaGraphDestroy(graph))

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            _cuda.ok(self._cuda.cudaGraphExecDestroy(graph))
