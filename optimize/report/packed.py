"""Many numbers in little JSON: nested lists as compressed text, for what machines alone read."""

import base64
import json
import zlib
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

LARGEST = 2**30  # bytes of JSON inside


def pack(value: Any) -> str:
    """JSON, compressed by zlib, in base64."""
    return base64.b64encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode())).decode()


def unpack(text: Any) -> Any:
    """The value again; anything but a string is taken as it is.

    Raises:
        ValueError: it is not what `pack` makes, or larger than a gigabyte.
    """
    if not isinstance(text, str):
        return text
    try:
        unfold = zlib.decompressobj()
        found = unfold.decompress(base64.b64decode(text, validate=True), LARGEST)
    except zlib.error as error:
        raise ValueError(f"not compressed by zlib: {error}") from error
    if unfold.unconsumed_tail:
        raise ValueError("more than a gigabyte of numbers")
    return json.loads(found)


_UNPACKED = BeforeValidator(unpack)
_PACKED = PlainSerializer(pack, return_type=str, when_used="json")
_IN_JSON = WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "JSON, compressed by zlib"})
Rounds = Annotated[list[list[int]], _UNPACKED, _PACKED, _IN_JSON]
Samples = Annotated[list[list[list[float]]], _UNPACKED, _PACKED, _IN_JSON]
