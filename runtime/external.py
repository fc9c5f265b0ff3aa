"""Where an ONNX file says that its weights lie: read from its bytes, without the package onnx.

ONNX Runtime, OpenVINO and onnx itself follow the name in `TensorProto.external_data` to wherever it leads, so a bundle
that is not trusted is looked through first. Only the wire format of Protocol Buffers is read, and of it only what leads
to tensors (onnx.proto, IR version 13); anything that is no such file is taken by no parser either.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path

_DEEPEST = 100  # messages in one another; protobuf's own parsers stop there too
_VARINT, _FIXED64, _BYTES, _START, _END, _FIXED32 = range(6)

# message -> field number -> the message in it; "location" ends the way
_MODEL: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


class _NoModel(ValueError):
    """The bytes are no Protocol Buffers message."""


def locations(path: Path) -> set[str]:
    """Every file that an ONNX file takes weights from, as it names it; empty for a file of another kind.

    Raises:
        OSError: it cannot be read.
    """
    if not path.stat().st_size:
        return set()
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(b"location") < 0:  # the key of every such entry, in plain bytes: most files have none
            return set()
        try:
            return set(_walk(data, 0, len(data), "model", 0))
        except _NoModel:
            return set()


def _walk(data: mmap.mmap, at: int, end: int, message: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise _NoModel
    if message == "entry":
        key, value = b"", b""
        for number, start, stop in _fields(data, at, end):
            if number == 1:
                key = data[start:stop]
            elif number == 2:
                value = data[start:stop]
        if key == b"location":
            yield value.decode("utf-8", errors="surrogateescape")
        return
    inside = _MODEL[message]
    for number, start, stop in _fields(data, at, end):
        if number in inside:
            yield from _walk(data, start, stop, inside[number], depth + 1)


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, first byte and end of every field of a message that holds bytes."""
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        elif kind == _BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise _NoModel
            yield tag >> 3, at, at + size
            at += size
        elif kind not in (_START, _END):  # groups, which nothing here writes: what is inside is read as if outside
            raise _NoModel
    if at > end:
        raise _NoModel


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise _NoModel
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise _NoModel
