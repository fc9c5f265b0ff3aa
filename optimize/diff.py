"""`optimize diff BUNDLE BUNDLE`: what differs between two bundles, and whether it decides what they answer.

What decides is the bytes of the ONNX files, what comes before and behind them, and the options that engines are opened
with. Measured figures are told as they were reported, and differ only where their intervals do not overlap.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optimize.changes import changed
from optimize.compare import MACHINE
from optimize.report import Report, Row
from optimize.report import json as report_json
from runtime import bundle as bundles
from runtime.bundle import Bundle, EngineEntry
from runtime.errors import BundleError, InputError
from runtime.zipped import unpacked

Rows = dict[str, dict[str, Any]]
PLAIN = "plain fp32"
_NONE = "the same"


def diff(old: Path, new: Path) -> dict[str, Any]:
    """What differs, model by model; `same` is whether all that decides answers is the same.

    Args:
        old: a bundle's folder, or a .zip of it; of one model or of several.
        new: another.

    Raises:
        InputError: one of them is no bundle, or damaged, or they have no model in common.
    """
    before, after = _models(old), _models(new)
    if len(before) == len(after) == 1:  # two runs name their bundles after their folders
        before, after = ({"": next(iter(models.values()))} for models in (before, after))
    shared = [name for name in before if name in after]
    if not shared:
        raise InputError(f"no model in common: {old} has {', '.join(before)}, {new} has {', '.join(after)}.")
    alone = {name: f"only in {old if name in before else new}" for name in {**before, **after} if name not in shared}
    found = {name: _model(before[name], after[name]) for name in shared}
    same = not alone and all(one["same"] for one in found.values())
    if list(found) == [""]:
        return {"old": str(old), "new": str(new), **found[""]}
    return {"old": str(old), "new": str(new), "same": same, "models": found, "only_in_one": alone or "none"}


def as_text(found: Mapping[str, Any]) -> dict[str, Any]:
    """For a terminal: the sections of several models one after the other."""
    if "models" not in found:
        return dict(found)
    sections = {f"{name}: {key}": part for name, one in found["models"].items() for key, part in one.items()}
    return {**{key: value for key, value in found.items() if key != "models"}, **sections}


def _models(path: Path) -> dict[str, Bundle]:
    try:
        folder = unpacked(path) if path.is_file() else path
        names = json.loads(bundles.read_manifest(folder)).get("models")
        read = [bundles.read(folder, name) for name in names] if isinstance(names, dict) else [bundles.read(folder)]
    except (BundleError, ValueError, AttributeError) as error:
        raise InputError(str(error) if isinstance(error, BundleError) else f"{path} is no bundle: {error}") from error
    return dict(zip(names or [one.name for one in read], read, strict=True))


def _model(old: Bundle, new: Bundle) -> dict[str, Any]:
    reports, decides = (_report(old), _report(new)), _decides(old, new)
    sections: dict[str, Any] = {
        "interface": _pairs(changed(_interface(old), _interface(new))),
        "engines": _pairs(changed(_engines(old), _engines(new))),
        "graphs": _graphs(old, new),
        "figures": _figures(old, new, *reports),
        "files": _files(old, new),
        "made_with": _pairs(changed(old.made_with, new.made_with)),
    }
    if None not in reports:
        told = [one.model_dump(mode="json", include={"recipe", "machine", "data"}) for one in reports if one]
        sections |= {key: _pairs(changed(told[0][key], told[1][key])) for key in told[0]}
    else:
        lacking = [str(one.path) for one, found in zip((old, new), reports, strict=True) if found is None]
        sections |= {"recipe": f"not known, nor machine and data: no report that can be read in {', '.join(lacking)}"}
    return {
        "same": not decides,
        "decides_answers": decides or "the ONNX files, bit by bit, and the options are the same",
        **{key: value or _NONE for key, value in sections.items()},
    }


def _pairs(found: Mapping[str, tuple[Any, Any]]) -> Rows:
    return {place: {"old": was, "new": now} for place, (was, now) in found.items()}


def _interface(bundle: Bundle) -> dict[str, Any]:
    """All that is fixed about a call: what it takes and gives, what comes before, with what it reads."""
    pre = [
        {**one.to_json(), "files": {role: bundle.files[name].sha256 for role, name in one.files.items()}}
        for one in bundle.pre
    ]
    sides = bundle.specs.to_json()
    named = {side: {one["name"]: {**one, "place": i} for i, one in enumerate(sides[side])} for side in sides}
    return {**named, "axes": bundle.axes, "pre": pre}


def _by_target(bundle: Bundle) -> dict[str, EngineEntry]:
    """The engines; of a target with several, each after the first by its own name."""
    found: dict[str, EngineEntry] = {}
    for entry in bundle.engines:
        found[entry.name if entry.target in found else entry.target] = entry
    return found


def _engines(bundle: Bundle) -> Rows:
    """What the manifest says of each engine, but for its figures."""
    told = {
        target: {
            **{what: getattr(one, what) for what in ("name", "engine", "options", "needs", "precision")},
            "bytes": sum(size(bundle, name) for name in one.files.values()),
        }
        for target, one in _by_target(bundle).items()
    }
    return {"best first": {"targets": ", ".join(told)}, **told, PLAIN: {"options": bundle.fallback.engines}}


def _decides(old: Bundle, new: Bundle) -> list[str]:
    """What of all that decides answers is another."""
    found = [f"the ONNX file of {key}" for key in _sources(old, new)]
    before, after = _by_target(old), _by_target(new)
    for target in {**before, **after}:
        was, now = before.get(target), after.get(target)
        if was is None or now is None:
            found.append(f"an engine for {target}, which one alone has")
        elif (was.engine, was.options) != (now.engine, now.options):
            found.append(f"the options of {target}")
    if old.fallback.engines != new.fallback.engines:
        found.append(f"the options of {PLAIN}")
    return found + (["inputs and outputs"] if changed(_interface(old), _interface(new)) else [])


def size(bundle: Bundle, name: str) -> int:
    """Of a file of a bundle, in bytes."""
    return (bundle.path / name).stat().st_size


def _sources(old: Bundle, new: Bundle) -> dict[str, tuple[str, str]]:
    """The ONNX files that both have and that are not the same bytes, external data looked at too."""
    before, after = _by_target(old), _by_target(new)
    pairs = {PLAIN: (old.fallback.files["model"], new.fallback.files["model"])}
    pairs |= {key: (before[key].source, after[key].source) for key in before if key in after}
    return {key: pair for key, pair in pairs.items() if _sums(old, pair[0]) != _sums(new, pair[1])}


def _sums(bundle: Bundle, name: str) -> list[str]:
    return [bundle.files[one].sha256 for one in (name, f"{name}.data") if one in bundle.files]


def _graphs(old: Bundle, new: Bundle) -> Rows:
    import onnx

    found = {}
    for key, pair in _sources(old, new).items():
        graphs = [onnx.load(bundle.path / name).graph for bundle, name in zip((old, new), pair, strict=True)]
        found[key] = _graph(*graphs)
    return found


def _graph(old: Any, new: Any) -> dict[str, Any]:
    """Nodes by op type, and the weights of one name and form: how many differ, and by how much at most."""
    before, after = (Counter(f"{n.domain}.{n.op_type}".lstrip(".") for n in graph.node) for graph in (old, new))
    counts = [", ".join(f"{n} {op}" for op, n in sorted((a - b).items())) for a, b in
              ((after, before), (before, after))]  # fmt: skip
    was, now = ({tensor.name: tensor for tensor in graph.initializer} for graph in (old, new))
    alike = [name for name in was if name in now and _form(was[name]) == _form(now[name])]
    differences = [largest for name in alike if (largest := _difference(was[name], now[name])) is not None]
    others = len(was) + len(now) - 2 * len(alike)
    moved = "nodes stand otherwise, or their attributes, names or metadata differ"
    found = {
        "nodes_added": counts[0] or "none",
        "nodes_removed": counts[1] or "none",
        "weights_that_differ": f"{len(differences)} of {len(alike)} of one name and form",
        "largest_difference": max(differences, default=0.0),
        "weights_of_one_alone": others,
    }
    return {**found, "otherwise": moved if list(old.node) != list(new.node) and not any(counts) else ""}


def _form(tensor: Any) -> tuple[Any, ...]:
    return tensor.data_type, *tensor.dims


def _difference(old: Any, new: Any) -> float | None:
    """The largest difference between two tensors of one form; None where equal, infinite for words and NaN."""
    from onnx import numpy_helper

    was, now = numpy_helper.to_array(old), numpy_helper.to_array(new)
    if was.dtype.kind in "OSU":
        return None if np.array_equal(was, now) else float("inf")
    if was.tobytes() == now.tobytes():
        return None
    apart = np.abs(was.astype(np.float64) - now.astype(np.float64))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))


def _report(bundle: Bundle) -> Report | None:
    try:
        return report_json.read(bundle.path / "report" / "report.json")
    except InputError:
        return None


def _figures(old: Bundle, new: Bundle, was: Report | None, now: Report | None) -> Rows:
    """Accuracy and latency of each target's engine, as they were reported."""
    before, after = _by_target(old), _by_target(new)
    unlike = ""
    if was and now:
        lacking = [what for what in MACHINE if was.machine.get(what) != now.machine.get(what)]
        unlike = f"not compared: unlike machines ({', '.join(lacking)})" if lacking else ""
        unlike = unlike or ("not compared: unlike batches" if was.batch != now.batch else "")
    rows: Rows = {}
    for target in (key for key in before if key in after):
        figures = [dict(_reported(entry, report)) for entry, report in ((before[target], was), (after[target], now))]
        for what in (key for key in figures[0] if key in figures[1]):
            one, other = figures[0][what], figures[1][what]
            if one == other:
                continue
            apart = one[1] > other[2] or other[1] > one[2]
            said = "differs" if apart else "cannot be told apart: the intervals overlap"
            rows[f"{target} {what}"] = {
                **{key: f"{v[0]:.4g} [{v[1]:.4g}, {v[2]:.4g}]" for key, v in (("old", one), ("new", other))},
                "said": (unlike if not what.startswith("drop") else "") or said,
            }
    return rows


def _reported(entry: EngineEntry, report: Report | None) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Name to value, low and high; from the manifest where no report tells more."""
    row = _row(entry, report)
    accuracy = entry.measured.get("accuracy", {})
    if {"drop", "low", "high"} <= set(accuracy):
        yield f"drop of {accuracy['metric']}", (accuracy["drop"], float(accuracy["low"]), float(accuracy["high"]))
    final = report.headline.targets.get(entry.target) if report and report.headline else None
    latency = final.latency if final and final.name == entry.name else row.latency if row else None
    if latency:
        yield "p50 ms", (latency.p50_ms, *latency.p50_interval_ms)
    told = entry.measured.get("latency", {})
    if told.get("ratio") is not None:
        yield "speed over the original", (told["ratio"], float(told["low"]), float(told["high"]))


def _row(entry: EngineEntry, report: Report | None) -> Row | None:
    return next((row for row in report.candidates if row.name == entry.name), None) if report else None


def _files(old: Bundle, new: Bundle) -> Rows:
    """Those that are not the same bytes."""
    rows: Rows = {}
    for name in sorted({**old.files, **new.files}):
        was, now = old.files.get(name), new.files.get(name)
        if was is None or now is None or was.sha256 != now.sha256:
            sizes = [size(bundle, name) if one else None for bundle, one in ((old, was), (new, now))]
            said = "differs" if was and now else "only in the new one" if now else "only in the old one"
            rows[name] = {"old_bytes": sizes[0], "new_bytes": sizes[1], "said": said}
    return rows
