"""The bundle out of a run: the chosen engines, fastest first, and the plain ONNX file as the last resort."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import targets
from optimize import handout
from optimize.build import Built
from optimize.plan import Candidate
from optimize.report import Report
from optimize.subject import Subject
from optimize.verify import judge, sized_feeds
from runtime import engines, writer
from runtime import golden as goldens
from runtime.bundle import Bundle, EngineEntry, Fallback, Golden
from runtime.contender import Worker
from runtime.engines import onnx_files, relative_error
from runtime.tensors import Array

# Any of these sums int8 products wide enough; a processor with none of them may saturate.
_WIDE_INT8 = ("avx512_vnni", "avx_vnni", "asimd")


def write_bundle(
    path: Path,
    report: Report,
    candidates: Sequence[Candidate],
    built: Mapping[str, Built],
    subject: Subject,
    files: Sequence[Path],
    golden: int,
) -> Bundle:
    """Write the bundle of what a report chose, with its engines' answers to `golden` samples."""
    by_name = {candidate.name: candidate for candidate in candidates}
    names = sorted(report.chosen.values(), key=lambda name: _time(report, name))
    plain = next(name for name, one in built.items() if by_name[name].role == "plain")
    plainly = {targets.get(name).engine: dict(targets.get(name).plain) for name in targets.names()}
    with tempfile.TemporaryDirectory() as folder:
        feeds = _golden_feeds(subject, built[plain], golden)
        answers = {
            name: _answers(built[name], feeds, Path(folder, str(index)))
            for index, name in enumerate(dict.fromkeys([*names, plain]))
        }
        entries = [_entry(by_name[name], built[name], subject, report, answers[name]) for name in names]
        # the chosen ones' libraries first, then any other that can run the file, numpy's last
        readers = ["onnxruntime", "openvino", "reference"]
        libraries = [*(entry.engine for entry in entries if entry.files and entry.engine in readers), *readers]
        return writer.write(
            path,
            name=path.resolve().parent.name,
            specs=built[plain].model.specs,
            engines=entries,
            fallback=Fallback(
                {role: str(file) for role, file in onnx_files(built[plain].model.path).items()},
                {library: plainly[library] for library in libraries},
                {"as": plain, **_measured(report, plain)},
                answers[plain],
            ),
            golden=goldens.save(Path(folder, "inputs"), feeds) if feeds else {},
            pre=subject.pre,
            states=subject.states,
            axes=subject.axes,
            made_with=report.made_with,
            report=files,
            pages=lambda entries: handout.pages(
                path.resolve().parent.name,
                built[plain].model.specs,
                subject.axes,
                entries,
                report.made_with,
                subject.states,
                subject.pre,
            ),
        )


def _golden_feeds(subject: Subject, plain: Built, samples: int) -> dict[str, Array]:
    """Real samples of validate, as a device gives them; as many as a fixed batch holds where it is fixed."""
    if not samples:
        return {}
    inputs = plain.model.specs.inputs
    first = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    size = first if isinstance(first, int) else min(samples, subject.axes.get(first, {}).get("max", samples))
    return sized_feeds(subject.calls.validate, inputs, size)


def _answers(built: Built, feeds: Mapping[str, Array], folder: Path) -> Golden | None:
    """What an engine answers here, and how far that is off from its own ONNX file: the room that it has elsewhere.

    One that could not be built here answers as its file says; it has the room that its library is known to take.
    """
    if not feeds:
        return None
    wanted = judge(built.model).run(feeds)
    if not built.files:
        return Golden(goldens.save(folder, wanted), max(engines.get("tensorrt").TOLERANCE.values()))
    with Worker.start(built.contender, feeds) as worker:
        got = dict(worker.outputs)
    error, _ = relative_error(got, wanted, built.model.specs.decoding)
    return Golden(goldens.save(folder, got), goldens.tolerance(error))


def _entry(candidate: Candidate, built: Built, subject: Subject, report: Report, golden: Golden | None) -> EngineEntry:
    wide = "int8" in built.precision and not candidate.scheme.reduce_range
    library, profiles = engines.get(candidate.target.engine), candidate.target.profiles
    options = dict(built.contender.arguments["options"])
    if not built.files:  # a device compiles it, for these sizes
        sizes = profiles(built.model.specs, subject.axes) if profiles else {}
        options = {**candidate.options, **({"profiles": sizes} if sizes else {})}
    return EngineEntry(
        name=candidate.name,
        target=candidate.target.name,
        engine=candidate.target.engine,
        files={role: str(file) for role, file in built.files.items()},
        source=str(built.model.path),
        options={key: value for key, value in options.items() if key not in library.LOCAL},
        needs={
            **({"instruction_sets_any": list(_WIDE_INT8)} if wide else {}),
            **(library.needs(options) if built.files else {}),
        },
        golden=golden,
        precision=built.precision,
        measured=_measured(report, candidate.name),
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
