"""Why an engine is fast or slow: `optimize explain BUNDLE`, from each engine's own profile.

The first sentence names the layer that is to blame, what it takes, and why; or says that no single one is.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from optimize.flags import random_feeds
from optimize.profiles import Layer
from optimize.progress import Progress
from optimize.report import Explained, LayerTime, words
from optimize.subject import read_data
from runtime import bundle as bundles
from runtime import contender, engines, loading
from runtime.bundle import Bundle, EngineEntry
from runtime.errors import Error, WorkError
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


def explained(
    engine: str, files: Mapping[str, Path], options: Mapping[str, Any], feeds: Mapping[str, Array], onnx: Path
) -> Explained:
    """One engine, layer by layer, and what it reaches of this machine's peak; where it gives no profile, why.

    Args:
        engine: in `runtime.engines`.
        files: its own, by role.
        options: with which it runs.
        feeds: of a call.
        onnx: the file that it was compiled from, for counting its operations.
    """
    try:
        layers = profile(engine, files, options, feeds)
    except WorkError as error:
        return Explained(sentence=f"No profile: {error}")
    total, parts = sum(layer.ms for layer in layers), shares(layers)
    top = sorted(layers, key=lambda layer: -layer.ms)[:SHOWN]
    found = Explained(
        sentence=blame(layers),
        total_ms=total,
        ms=parts,
        layers=[
            LayerTime(
                name=layer.name, op=layer.op, ms=layer.ms, precision=layer.precision, kind=layer.kind,
                fused=max(0, len(layer.origin) - 1), kernel=layer.kernel,
            )
            for layer in top
        ],
        int8_instructions=int8_instructions(),
    )  # fmt: skip
    try:
        with _stored(feeds) as stored:
            modules = engines.get("onnxruntime").FORKABLE
            done = contender.call("optimize.peak:work", limit_s=LIMIT_S, modules=modules, onnx=str(onnx), **stored)
        peaks = _peaks(engine, options.get("threads") or facts().cores)
    except Error as error:  # the profile is not lost with it
        return found.model_copy(update={"unreached": str(error)})
    busiest = next((what for what in parts if what.startswith("computing in ")), "").removeprefix("computing in ")
    billions = {busiest: done["operations"] / total / 1e6, "copy": done["bytes"] / total / 1e6} if total else {}
    reached = {what: speed / peaks[what] for what, speed in billions.items() if what in peaks}
    unreached = "" if reached else f"no peak of '{engine}' is measured"
    return found.model_copy(update={**done, "peaks": peaks, "reached": reached, "unreached": unreached})


def int8_instructions() -> str:
    """What this processor has for int8, or what it lacks."""
    found = [name for name in INT8_SETS if name in facts().instruction_sets]
    return ", ".join(found) or (
        f"none of {', '.join(INT8_SETS)} here: int8 is computed by wider instructions, and gains little"
    )


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
        _, material = read_data(data, None, None, None, inputs, progress, bundle.pre_here())
        feeds = material.splits.validate.take(batch)[0]
    else:
        feeds = random_feeds(inputs, batch)
    found: dict[str, Any] = {}
    for entry in bundle.engines:
        progress.say(entry.name)
        found[entry.name] = _entry(bundle, entry, feeds)
    progress.close()
    return {
        "input": data or "random numbers, since no --data was given",
        "batch": batch,
        "engines": found,
        "int8_instructions": int8_instructions(),
        "machine": facts().to_json(),
    }


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """For a terminal: of each engine its sentence, where the time goes, and a table of its costliest layers."""
    lines: dict[str, Any] = {}
    for name, engine in found["engines"].items():
        lines[name] = engine["sentence"]
        if engine["layers"]:
            parts = ", ".join(f"{what} {ms:.3f} ms" for what, ms in engine["ms"].items())
            plain = engine.get("plain_fp32_ms")
            lines[f"{name}, in all"] = f"{parts}{f'; plain fp32 {plain:.3f} ms' if plain else ''}"
            if engine["reach"]:
                lines[f"{name}, of the peak"] = engine["reach"]
            lines[f"{name}, costliest layers"] = engine["layers"]
    return {**lines, **{key: value for key, value in found.items() if key != "engines"}}


def _entry(bundle: Bundle, entry: EngineEntry, feeds: Mapping[str, Array]) -> dict[str, Any]:
    if not entry.files:
        return {"sentence": "No profile: it was not built here", "layers": {}}
    files = bundle.resolve(entry.files)
    found = explained(entry.engine, files, entry.options, feeds, bundle.resolve({"source": entry.source})["source"])
    result = found.model_dump(exclude={"int8_instructions"})
    result["reach"] = words.reached(found)
    result["layers"] = {layer.name: layer.model_dump(exclude={"name"}) for layer in found.layers}
    plain = next(
        (one for one in loading.considered(bundle) if one not in bundle.engines and one.engine == entry.engine), None
    )
    if plain and found.layers:
        try:
            layers = profile(plain.engine, bundle.resolve(plain.files), plain.options, feeds)
            result["plain_fp32_ms"] = sum(layer.ms for layer in layers)
        except WorkError:
            result["plain_fp32_ms"] = None
    return result


def profile(
    engine: str, files: Mapping[str, Path], options: Mapping[str, Any], feeds: Mapping[str, Array]
) -> list[Layer]:
    """The layers of one engine, from a process of its own.

    Raises:
        WorkError: it does not run here, or gives no profile.
    """
    with _stored(feeds) as stored:
        found = contender.call(
            "optimize.profiles:profiled", limit_s=LIMIT_S, modules=engines.get(engine).FORKABLE,
            engine=engine, options=dict(options), calls=CALLS,
            files={role: str(path) for role, path in files.items()}, **stored,
        )  # fmt: skip
    return [Layer(**{**one, "origin": tuple(one["origin"])}) for one in found]


@contextmanager
def _stored(feeds: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    """Arrays for another process: a file, and the names in its order."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "feeds.npz"
        np.savez(path, *feeds.values())
        yield {"feeds": str(path), "names": list(feeds)}


@cache
def _peaks(engine: str, threads: int) -> dict[str, float]:
    found: dict[str, float] = contender.call("optimize.peak:peaks", limit_s=LIMIT_S, engine=engine, threads=threads)
    return found
