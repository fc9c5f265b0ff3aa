"""What a bundle says of itself to whoever gets it: USE.md, sbom.json, and a Dockerfile a target.

A template a kind of engine (`<engine>.md`): how to run it with the bare library, in Python, C and C++.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

from optimize.handout import sbom
from runtime.pre import PreSpec
from runtime.tensors import Specs, TensorSpec

_HERE = Path(__file__).parent
# numpy's name -> in C, in OpenVINO's C and C++, in ONNX Runtime's C, in ExecuTorch's C++
_TYPES = {
    "float32": ("float", "F32", "f32", "FLOAT", "Float"), "float64": ("double", "F64", "f64", "DOUBLE", "Double"),
    "int64": ("int64_t", "I64", "i64", "INT64", "Long"), "int32": ("int32_t", "I32", "i32", "INT32", "Int"),
    "int8": ("int8_t", "I8", "i8", "INT8", "Char"), "uint8": ("uint8_t", "U8", "u8", "UINT8", "Byte"),
    "bool": ("bool", "BOOLEAN", "boolean", "BOOL", "Bool"), "float16": ("uint16_t", "F16", "f16", "FLOAT16", "Half"),
}  # fmt: skip
_RAW = {"image": '"cat.jpg"', "text": '"a text"', "audio": '"yes.wav"'}  # how a raw sample of each kind is given


def pages(
    name: str, specs: Specs, axes: Mapping[str, Mapping[str, int]], entries: Sequence[Mapping[str, Any]],
    made_with: Mapping[str, str], states: Mapping[str, str] = MappingProxyType({}), pre: Sequence[PreSpec] = (),
) -> dict[str, str]:  # fmt: skip
    """Name in the bundle to text.

    Args:
        name: the bundle's.
        specs: its inputs and outputs.
        axes: sizes of its named axes.
        entries: its engines, as its manifest has them.
        made_with: distribution to version.
        states: input to the output that gives what the next call takes.
        pre: what makes its inputs of raw samples.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(_HERE), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    sizes = {axis: limits.get("best", 1) for axis, limits in axes.items()}
    inputs, outputs = ([_tensor(spec, sizes) for spec in part] for part in (specs.inputs, specs.outputs))
    tensors = (*specs.inputs, *specs.outputs)
    # a name that would end a string of Python or C is left to the reader
    known = all(spec.dtype in _TYPES and spec.name.isprintable() and not {*'"\\'} & {*spec.name} for spec in tensors)
    shown = []
    for entry in entries:
        if entry["files"] and known and (_HERE / f"{entry['engine']}.md").exists():
            template = templates.get_template(f"{entry['engine']}.md")
            device = entry["options"].get("device") or "CPU"
            code = template.render(entry=entry, inputs=inputs, outputs=outputs, options=_options(entry), device=device)
            shown.append({**entry, "code": code})
        else:
            shown.append({**entry, "code": ""})
    version = made_with.get("edge-optimize", "")
    found = {
        "USE.md": templates.get_template("USE.md").render(
            name=name,
            specs=specs,
            axes=axes,
            entries=shown,
            states=states,
            pre=pre,
            raw=[_RAW[spec.kind] for spec in pre for _ in spec.columns],
        ),
        "sbom.json": sbom.text(name, entries, made_with),
    }
    for engine, target in {entry["engine"]: entry["target"] for entry in reversed(entries)}.items():
        found[f"Dockerfile.{target}"] = templates.get_template("Dockerfile").render(
            engine=engine, version=version, name=name, target=target
        )
    return found


def _tensor(spec: TensorSpec, sizes: Mapping[str, int]) -> dict[str, Any]:
    shape = spec.sized(sizes)
    c, ov_c, ov_cpp, ort, torch = _TYPES.get(spec.dtype, ("", "", "", "", ""))
    return {
        "name": spec.name, "dtype": spec.dtype, "shape": shape, "size": prod(shape),
        "c": c, "ov_c": ov_c, "ov_cpp": ov_cpp, "ort": ort, "torch": torch,
    }  # fmt: skip


def _options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine's own library is given for the options that were measured."""
    if entry["engine"] == "openvino":
        from runtime.engines.openvino import properties

        threads = int(entry["options"].get("threads") or 0)
        return {key: value for key, value in properties(entry["options"], threads).items() if value}
    return dict(entry["options"])
