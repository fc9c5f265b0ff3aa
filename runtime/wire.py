"""Messages between a process and a worker: one line of JSON, then the raw bytes of arrays. Nothing is unpickled."""

import json
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from runtime.tensors import Array, is_text


def send(stream: IO[bytes], message: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> None:
    """Write one message; arrays must be of a plain dtype (numbers or text), else TypeError."""
    # text comes from engines as objects
    arrays = {name: value.astype(str) if is_text(value) else value for name, value in (arrays or {}).items()}
    odd = [name for name, value in arrays.items() if value.dtype.hasobject]
    if odd:
        raise TypeError(f"'{odd[0]}' is an array of Python objects, which cannot be sent")
    packed = [(name, np.ascontiguousarray(value).reshape(value.shape)) for name, value in arrays.items()]
    head = [{"name": name, "dtype": value.dtype.str, "shape": value.shape} for name, value in packed]
    stream.write(json.dumps({**message, "arrays": head}).encode() + b"\n")
    for _, value in packed:
        stream.write(value.tobytes())
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read one message.

    Raises:
        EOFError: the other side has gone.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the other process has ended")
    message = json.loads(line)
    arrays = {}
    for head in message.pop("arrays"):
        dtype = np.dtype(head["dtype"])
        size = dtype.itemsize * int(np.prod(head["shape"], dtype=np.int64))
        raw = stream.read(size)
        if len(raw) != size:
            raise EOFError("the other process has ended in the middle of an array")
        arrays[head["name"]] = np.frombuffer(raw, dtype).reshape(head["shape"])
    return message, arrays
