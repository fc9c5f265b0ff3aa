"""OpenVINO's profile: the performance counts of its compiled graph."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimize.profiles import DROPPED, Kind, Layer
from runtime.engines import library
from runtime.engines.openvino import limit, number_format, properties, told
from runtime.host import cores
from runtime.tensors import Array

_CONVERTS = {"Convert", "FakeQuantize", "Quantize"}
_MOVES = {"Reorder", "Reshape", "Transpose", "Concatenation", "Split", "StridedSlice", "Gather", "Pad"}
_ENDS = {"Input", "Output", "Const", "Parameter", "Result", "Constant"}


def profile(
    files: Mapping[str, Path], options: Mapping[str, Any], feeds: Mapping[str, Array], calls: int
) -> list[Layer]:
    """The nodes of one call, each with its mean time."""
    limit(options)
    ov = library("openvino", "openvino")
    core = ov.Core()
    model = core.read_model(*(str(files[role]) for role in ("model", "weights") if role in files))
    compiled = core.compile_model(model, "CPU", {**properties(options, cores()), "PERF_COUNT": True})
    request = compiled.create_infer_request()
    spent: dict[str, float] = defaultdict(float)
    seen: dict[str, Any] = {}
    for number in range(DROPPED + calls):
        request.infer(dict(feeds))
        if number < DROPPED:
            continue
        for info in request.profiling_info:
            if info.node_type in _ENDS or info.status == ov.ProfilingInfo.Status.NOT_RUN:
                continue
            spent[info.node_name] += info.real_time.total_seconds() * 1e3
            seen.setdefault(info.node_name, info)
    nodes = {op.get_friendly_name(): op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()}
    return [_layer(name, info, nodes.get(name, {}), spent[name] / calls) for name, info in seen.items()]


def _layer(name: str, info: Any, node: Any, ms: float) -> Layer:
    kind: Kind = "convert" if info.node_type in _CONVERTS else "move" if info.node_type in _MOVES else "compute"
    origin = tuple(one for one in told(node, "originalLayersNames").split(",") if one)
    return Layer(name, info.node_type, ms, number_format(node) or "f32", kind, origin, info.exec_type)
