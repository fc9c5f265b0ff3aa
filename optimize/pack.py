"""The bundle out of a run: the chosen engines, fastest first, and the plain ONNX file as the last resort."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import targets
from optimize.build import Built
from optimize.plan import Candidate
from optimize.report import Report
from optimize.subject import Subject
from runtime import bundle
from runtime.bundle import Bundle, EngineEntry, Fallback
from runtime.engines import onnx_files

# Any of these sums int8 products wide enough; a processor with none of them may saturate.
_WIDE_INT8 = ("avx512_vnni", "avx_vnni", "asimd")


def write_bundle(
    path: Path,
    report: Report,
    candidates: Sequence[Candidate],
    built: Mapping[str, Built],
    subject: Subject,
    files: Sequence[Path],
) -> Bundle:
    """Write the bundle of what a report chose."""
    by_name = {candidate.name: candidate for candidate in candidates}
    names = sorted(report.chosen.values(), key=lambda name: _time(report, name))
    engines = [_entry(by_name[name], built[name], _measured(report, name)) for name in names]
    plain = next(name for name, one in built.items() if by_name[name].role == "plain")
    # the chosen ones' libraries first, then any other that can run the file, numpy's last
    libraries = [*(entry.engine for entry in engines if entry.files), "onnxruntime", "openvino", "reference"]
    plainly = {targets.get(name).engine: dict(targets.get(name).plain) for name in targets.names()}
    return bundle.write(
        path,
        name=path.resolve().parent.name,
        specs=built[plain].model.specs,
        engines=engines,
        fallback=Fallback(
            {role: str(file) for role, file in onnx_files(built[plain].model.path).items()},
            {library: plainly[library] for library in libraries},
            {"as": plain, **_measured(report, plain)},
        ),
        axes=subject.axes,
        made_with=report.made_with,
        report=files,
    )


def _entry(candidate: Candidate, built: Built, measured: Mapping[str, Any]) -> EngineEntry:
    wide = "int8" in built.precision and not candidate.scheme.reduce_range
    return EngineEntry(
        name=candidate.name,
        target=candidate.target.name,
        engine=candidate.target.engine,
        files={role: str(file) for role, file in built.files.items()},
        source=str(built.model.path),
        options=dict(built.contender.arguments["options"] if built.files else candidate.options),
        needs={"instruction_sets_any": list(_WIDE_INT8)} if wide else {},
        precision=built.precision,
        measured=measured,
    )


def _measured(report: Report, name: str) -> dict[str, Any]:
    """What the manifest repeats of the report; of what was not measured, nothing."""
    row = report.row(name)
    found: dict[str, Any] = {}
    if row.accuracy:
        found["accuracy"] = row.accuracy.model_dump(
            include={"metric", "value", "drop", "low", "high", "verdict", "samples"}
        )
    final = (
        next((one for one in report.headline.targets.values() if one.name == name), None) if report.headline else None
    )
    latency = final.latency if final else row.latency
    if latency:
        found["latency"] = latency.model_dump(include={"p50_ms", "ratio", "low", "high", "verdict", "samples"})
    else:
        found["remark"] = "accuracy from its Q/DQ file on ONNX Runtime, latency not measured"
    return found


def _time(report: Report, name: str) -> float:
    """By which the bundle's engines are ordered; what was not measured comes last."""
    latency = _measured(report, name).get("latency")
    return float(latency["p50_ms"]) if latency else float("inf")
