"""Why an engine is fast or slow: `optimize explain BUNDLE`, from each engine's own profile.

The first sentence names the layer that is to blame, what it takes, and why; or says that no single one is.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from optimize.flags import random_feeds
from optimize.profiles import Layer
from optimize.progress import Progress
from optimize.subject import read_data
from runtime import bundle as bundles
from runtime import contender
from runtime import model as models
from runtime.bundle import Bundle, EngineEntry
from runtime.errors import WorkError
from runtime.host import facts
from runtime.tensors import Array

CALLS = 100
SHOWN = 12  # layers, the costliest
ALONE = 0.25  # of a call: a layer that is to blame by itself
ISLAND = 0.10  # of a call: what an interruption of int8 may take before it is to blame
INT8_SETS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
LIMIT_S = 600.0


@dataclass(frozen=True)
class Island:
    """Layers in a row that do not compute in int8, between others that do: the costliest of them gives the name."""

    layers: tuple[Layer, ...]

    @property
    def ms(self) -> float:
        """A call."""
        return sum(layer.ms for layer in self.layers)

    @property
    def head(self) -> Layer:
        """Who interrupts: the costliest that computes, else the costliest."""
        computing = [layer for layer in self.layers if layer.kind == "compute"]
        return max(computing or self.layers, key=lambda layer: layer.ms)


def blame(layers: Sequence[Layer]) -> str:
    """One sentence: the layer, its milliseconds and the cause; or that no single one is to blame."""
    total = sum(layer.ms for layer in layers)
    if not total:
        return "The profile has no times."
    quantized = any(layer.precision == "int8" and layer.kind == "compute" for layer in layers)
    if quantized:
        inner = [island for island in islands(layers) if island.ms >= ISLAND * total]
        if inner:
            worst = max(inner, key=lambda island: island.ms)
            head, others = worst.head, len(worst.layers) - 1
            converting = sum(layer.kind == "convert" for layer in worst.layers)
            why = f"it runs in {head.precision} between layers in int8"
            if head.kind != "compute":
                why = "numbers are converted between layers in int8, since what follows or precedes could not be fused"
            around = (
                f", with {converting} conversions and {others - converting} other layers beside it" if others else ""
            )
            return (
                f"{head.name} ({head.op}) is to blame: {why}{around}, and takes {worst.ms:.3f} of {total:.3f} ms "
                f"({worst.ms / total:.0%})."
            )
    top = max(layers, key=lambda layer: layer.ms)
    if top.ms >= ALONE * total and len(layers) > 1 / ALONE:
        return (
            f"{top.name} ({top.op}, {top.precision}) is to blame: it alone takes {top.ms:.3f} of {total:.3f} ms "
            f"({top.ms / total:.0%})."
        )
    return (
        f"No single layer is to blame: the largest, {top.name} ({top.op}, {top.precision}), takes {top.ms:.3f} of "
        f"{total:.3f} ms ({top.ms / total:.0%})."
    )


def islands(layers: Sequence[Layer]) -> list[Island]:
    """The runs of layers not in int8 that lie between layers that compute in it."""
    inside = [layer.kind == "compute" and layer.precision == "int8" for layer in layers]
    places = [i for i, quantized in enumerate(inside) if quantized]
    found = []
    for one, after in pairwise(places):
        if after > one + 1:
            found.append(Island(tuple(layers[one + 1 : after])))
    return found


def shares(layers: Sequence[Layer]) -> dict[str, float]:
    """Milliseconds a call by what is done: computing in each format, converting, moving."""
    found: dict[str, float] = {}
    for layer in layers:
        what = {"convert": "converting", "move": "moving"}.get(layer.kind, f"computing in {layer.precision}")
        found[what] = found.get(what, 0.0) + layer.ms
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def explain(place: str, data: str | None, batch: int) -> dict[str, Any]:
    """Every engine of a bundle that runs here, and the plain fp32 model on the same library, layer by layer.

    Raises:
        InputError: the bundle or the data is not there, or does not fit.
    """
    bundle = bundles.read(place)
    progress = Progress(1)
    progress.stage("profile")
    inputs = bundle.specs.inputs
    fixed = inputs[0].shape[0] if inputs[0].shape else 1
    batch = fixed if isinstance(fixed, int) else batch
    if data:
        _, material = read_data(data, None, None, None, inputs, progress)
        feeds = material.splits.validate.take(batch)[0]
    else:
        feeds = random_feeds(inputs, batch)
    found: dict[str, Any] = {}
    for entry in bundle.engines:
        progress.say(entry.name)
        found[entry.name] = _engine(bundle, entry, feeds)
    progress.close()
    host = facts()
    int8 = [name for name in INT8_SETS if name in host.instruction_sets]
    return {
        "input": data or "random numbers, since no --data was given",
        "batch": batch,
        "engines": found,
        "int8_instructions": ", ".join(int8)
        or f"none of {', '.join(INT8_SETS)} here: int8 is computed by wider instructions, and gains little",
        "machine": host.to_json(),
    }


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """For a terminal: of each engine its sentence, where the time goes, and a table of its costliest layers."""
    lines: dict[str, Any] = {}
    for name, engine in found["engines"].items():
        lines[name] = engine["sentence"]
        if "layers" in engine:
            parts = ", ".join(f"{what} {ms:.3f} ms" for what, ms in engine["ms"].items())
            plain = engine.get("plain_fp32_ms")
            lines[f"{name}, in all"] = f"{parts}{f'; plain fp32 {plain:.3f} ms' if plain else ''}"
            lines[f"{name}, costliest layers"] = engine["layers"]
    return {**lines, **{key: value for key, value in found.items() if key != "engines"}}


def _engine(bundle: Bundle, entry: EngineEntry, feeds: Mapping[str, Array]) -> dict[str, Any]:
    try:
        layers = profile(bundle, entry, feeds)
    except WorkError as error:
        return {"sentence": f"No profile: {error}"}
    result: dict[str, Any] = {
        "sentence": blame(layers),
        "total_ms": sum(layer.ms for layer in layers),
        "ms": shares(layers),
    }
    plain = next(
        (one for one in models.considered(bundle) if one not in bundle.engines and one.engine == entry.engine), None
    )
    if plain:
        try:
            result["plain_fp32_ms"] = sum(layer.ms for layer in profile(bundle, plain, feeds))
        except WorkError:
            result["plain_fp32_ms"] = None
    top = sorted(layers, key=lambda layer: -layer.ms)[:SHOWN]
    result["layers"] = {
        layer.name: {
            "op": layer.op, "ms": layer.ms, "precision": layer.precision, "kind": layer.kind,
            "fused": max(0, len(layer.origin) - 1), "kernel": layer.kernel,
        }
        for layer in top
    }  # fmt: skip
    return result


def profile(bundle: Bundle, entry: EngineEntry, feeds: Mapping[str, Array]) -> list[Layer]:
    """The layers of one engine of a bundle, from a process of its own.

    Raises:
        WorkError: it does not run here, or gives no profile.
    """
    if not entry.files:
        raise WorkError("it was not built here")
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "feeds.npz"
        np.savez(stored, *feeds.values())
        files = {role: str(path) for role, path in bundle.resolve(entry.files).items()}
        found = contender.call(
            "optimize.profiles:profiled", None, limit_s=LIMIT_S,
            engine=entry.engine, files=files, options=dict(entry.options), feeds=str(stored), names=list(feeds),
            calls=CALLS,
        )  # fmt: skip
    return [Layer(**{**one, "origin": tuple(one["origin"])}) for one in found]
