"""TensorRT's profile: its profiler's times, and its inspector's words on each layer of the plan."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimize.profiles import Kind, Layer
from runtime.engines.tensorrt import TensorRtSession, moves, precision
from runtime.tensors import Array


def profile(
    files: Mapping[str, Path], options: Mapping[str, Any], feeds: Mapping[str, Array], calls: int
) -> list[Layer]:
    """The layers of one call, each with its mean time."""
    session = TensorRtSession(files["model"], None, options)
    try:
        spent, told = session.layers(feeds, calls)
    finally:
        session.close()
    known = {layer["Name"]: layer for layer in json.loads(told).get("Layers", []) if isinstance(layer, dict)}
    return [_layer(name, known.get(name, {}), ms) for name, ms in spent.items()]


def _layer(name: str, told: Mapping[str, Any], ms: float) -> Layer:
    op = str(told.get("LayerType", ""))
    kind: Kind = "convert" if op.lower() == "reformat" else "move" if moves(told) else "compute"
    # the names of what was fused into it, as TensorRT joins them
    origin = tuple(name.split(" + ")) if " + " in name else ()
    return Layer(name, op, ms, precision(told) or "f32", kind, origin, str(told.get("TacticName", "")))
