"""What a model or a bundle holds: inputs, outputs, ops, size, precisions, sparsity. Nothing is run."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from optimize import sources
from optimize.models import read_onnx
from optimize.sources import ModelSpec
from runtime import bundle as bundles
from runtime.engines import onnx_files
from runtime.errors import InputError
from runtime.host import facts
from runtime.loading import Wishes, considered, open_entry


def inspect(place: str, weights: str | None, trust: bool) -> dict[str, Any]:
    """Look into a bundle's folder, an ONNX file, or a torch model.

    Raises:
        InputError: it is none of these, or not there.
        BundleError: the bundle is damaged.
    """
    if Path(place).is_dir() and not sources.claimed(place):
        return _bundle(Path(place))
    source = sources.detect(place)
    loaded = sources.load(ModelSpec(source, place, weights, (), trust))
    return _onnx(loaded.model) if isinstance(loaded.model, Path) else _torch(loaded.model)


def _onnx(path: Path) -> dict[str, Any]:
    import onnx
    from onnx import numpy_helper

    specs = read_onnx(path).specs
    proto = onnx.load(path)
    ops = Counter(node.op_type if not node.domain else f"{node.domain}.{node.op_type}" for node in proto.graph.node)
    weights = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    opsets = ", ".join(f"{opset.domain or 'ai.onnx'} {opset.version}" for opset in proto.opset_import)
    return {
        "format": f"ONNX, opset {opsets}",
        "inputs": [str(spec) for spec in specs.inputs],
        "outputs": [str(spec) for spec in specs.outputs],
        "nodes": sum(ops.values()),
        "ops": dict(ops.most_common()),
        "quantized": f"{ops['QuantizeLinear']} QuantizeLinear, {ops['DequantizeLinear']} DequantizeLinear",
        **_weights([value for value in weights if value.ndim], [value.dtype.name for value in weights if value.ndim]),
        "size_bytes": sum(part.stat().st_size for part in onnx_files(path).values()),
    }


def _torch(module: Any) -> dict[str, Any]:
    values = [parameter.detach() for parameter in module.parameters()]
    leaves = [layer for layer in module.modules() if not list(layer.children())]
    layers = Counter(getattr(layer, "original_name", type(layer).__name__) for layer in leaves)  # TorchScript's own
    if hasattr(module, "graph") and hasattr(module.graph, "find_nodes"):  # an exported program has no layers
        layers = Counter(str(node.target) for node in module.graph.nodes if node.op == "call_function")
    arrays = [value.float().numpy() for value in values]
    return {
        "format": f"torch module {getattr(module, 'original_name', type(module).__name__)}",
        "layers": dict(layers.most_common()),
        **_weights(arrays, [str(value.dtype).removeprefix("torch.") for value in values]),
        "size_bytes": sum(value.numel() * value.element_size() for value in values),
    }


def _weights(arrays: list[Any], names: list[str]) -> dict[str, Any]:
    numbers = sum(value.size for value in arrays)
    sizes: Counter[str] = Counter()
    for value, name in zip(arrays, names, strict=True):
        sizes[name] += value.size
    zeros = sum(int(np.count_nonzero(value == 0)) for value in arrays)
    return {
        "weights": numbers,
        "precisions": {name: f"{size / max(numbers, 1):.1%}" for name, size in sizes.most_common()},
        "sparsity": f"{zeros / max(numbers, 1):.1%} of the weights are zero",
    }


def _bundle(path: Path) -> dict[str, Any]:
    if not (path / bundles.MANIFEST).exists():
        raise InputError(f"{path} is a folder without {bundles.MANIFEST}; a bundle is the folder 'bundle' of a run.")
    bundle, host = bundles.read(path), facts()
    engines = {}
    for entry in considered(bundle):
        try:
            open_entry(bundle, entry, host, Wishes(rebuild=False)).session.close()
            here = "yes"
        except Exception as error:  # whatever it is, it is the answer
            here = str(error)
        latency = entry.measured.get("latency", {})
        engines[entry.name] = {
            "engine": entry.engine,
            "precision": entry.precision,
            "size_bytes": sum((path / file).stat().st_size for file in entry.files.values()),
            "p50_ms_when_built": latency.get("p50_ms"),
            "runs_here": here,
        }
    return {
        "format": f"bundle '{bundle.name}', {len(bundle.files)} files as they were written",
        "inputs": [str(spec) for spec in bundle.specs.inputs],
        "outputs": [str(spec) for spec in bundle.specs.outputs],
        **({"states": dict(bundle.states)} if bundle.states else {}),
        "size_bytes": sum((path / file).stat().st_size for file in bundle.files),
        "made_with": dict(bundle.made_with),
        "engines": engines,
    }
