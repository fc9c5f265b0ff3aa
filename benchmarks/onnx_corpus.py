"""ONNX files that others wrote, through the program: read, simplified, compiled by each target, run, and compared.

    python benchmarks/onnx_corpus.py --corpus DIR [--quick] [--json FILE] [FILE ...]

DIR holds the files and a manifest.json that lists them. Each is run untouched by ONNX Runtime, every node by itself, or
where that refuses it by onnx's own evaluator: what it answers on random numbers is the yardstick. All that is done to a
file is done in processes with a limit of time and memory. What the source refuses, or does not run, goes to no target.
TensorRT is built for where the parts of tests/tensorrt_cpu are installed, and not run. Exit code 1: something crashed,
hung, differs without a reason that is known, or is refused though ONNX Runtime runs it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from runtime.tensors import Array, Specs

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
LIMITS: dict[str, Any] = {"limit_s": 300.0, "memory_bytes": 8 * 2**30}
LENGTH = 2  # of every axis that a file leaves open
QUICK = 8  # files
# what is a vendor's, found with this table: (file, target) -> why
KNOWN = {
    ("winml__candy.onnx", "openvino"): (
        "its InstanceNormalization over 640,000 numbers is 1.3 % off what float64 gives, ONNX Runtime's 0.07 %"
    ),
}


def yardstick(path: str, folder: str) -> dict[str, Any]:
    """Random inputs and the untouched file's answers, in feeds.npz and answers.npz; says whose answers they are."""
    import onnx
    import onnxruntime as ort

    from optimize.flags import random_feeds
    from optimize.models import _specs

    proto = onnx.load(path)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = _specs([value for value in proto.graph.input if value.name not in weights], Path(path))
    feeds = random_feeds(inputs, LENGTH)
    np.savez(Path(folder) / "feeds.npz", **feeds)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = [value.name for value in proto.graph.output]
    try:
        session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        answers, whose = session.run(names, feeds), "ONNX Runtime"
    except Exception as error:
        try:
            answers, whose = onnx.reference.ReferenceEvaluator(path).run(names, feeds), "onnx"
        except Exception:
            return {"refused": " ".join(str(error).split())}
    np.savez(Path(folder) / "answers.npz", **dict(zip(names, answers, strict=True)))
    return {"by": whose}


def imported(path: str, folder: str) -> dict[str, Any]:
    """The file as our source reads it, simplified: where it lies, its inputs and outputs, and what was noted."""
    from optimize.data import Split
    from optimize.models import read_onnx
    from optimize.sources import ModelSpec, load
    from optimize.steps import Context, get
    from targets import Scheme

    class Given(Split):
        """One batch, whatever is first in the shapes."""

        def take(self, samples: int) -> tuple[dict[str, Array], None]:
            return feeds, None

    original = load(ModelSpec("onnx", path))
    assert isinstance(original.model, Path)  # what it was converted to, where it was
    model = read_onnx(original.model)
    feeds = dict(np.load(Path(folder) / "feeds.npz"))
    original.open().run(feeds)  # as a run does before it compiles anything
    inner = Path(folder) / "simplified"
    inner.mkdir()
    split = Given("calibrate", lambda: iter([(feeds, None)]))
    context = Context(split, axes_of(model.specs), Scheme(ops=()), inner)
    found = get("simplify")()(model, context)
    return {"path": str(found.path), "specs": found.specs.to_json(), "notes": [*original.notes, *context.notes]}


def compiled(target: str, path: str, specs: dict[str, Any], out: str) -> dict[str, str]:
    """The target's files, role to path."""
    import targets
    from runtime.tensors import Specs
    from runtime.worker import compile_engine

    if target == "tensorrt":
        import tensorrt_cpu

        sys.modules["tensorrt"] = tensorrt_cpu.enable()
    return compile_engine(targets.get(target).engine, path, out, options(target, Specs.from_json(specs)))


def options(name: str, specs: Specs) -> dict[str, Any]:
    """The target's plain options, and for one that is built for a range of sizes the one size."""
    import targets

    target = targets.get(name)
    return {**target.plain, **({"profiles": target.profiles(specs, axes_of(specs))} if target.profiles else {})}


def axes_of(specs: Specs) -> dict[str, dict[str, int]]:
    """What a file leaves open, of one size each."""
    names = {axis for spec in specs.inputs for axis in spec.shape if isinstance(axis, str)}
    return {name: {"min": LENGTH, "best": LENGTH, "max": LENGTH} for name in names}


def answered(target: str, model: dict[str, Any], feeds: dict[str, Array], out: Path) -> dict[str, Array] | None:
    """What a target answers, compiled and run in processes of their own."""
    import targets
    from runtime.contender import Contender, Worker, call
    from runtime.tensors import Specs

    here = "benchmarks.onnx_corpus:compiled"
    files = call(here, **LIMITS, target=target, path=model["path"], specs=model["specs"], out=str(out))
    if target == "tensorrt":
        return None
    asked = options(target, Specs.from_json(model["specs"]))
    arguments = {"engine": targets.get(target).engine, "files": files, "specs": model["specs"], "options": asked}
    with Worker.start(Contender(target, "runtime.worker:open_engine", arguments), feeds, **LIMITS) as worker:
        return dict(worker.outputs) or worker.run(feeds)


def first_difference(
    target: str, model: dict[str, Any], feeds: dict[str, Array], folder: Path, tolerance: float
) -> str:
    """The first node whose value differs, of those whose type can be told and that the target takes alone."""
    import onnx

    from optimize.models import OnnxModel
    from optimize.verify import judge
    from runtime.engines import relative_error
    from runtime.errors import Error
    from runtime.tensors import Specs, TensorSpec

    proto = onnx.shape_inference.infer_shapes(onnx.load(model["path"]))
    inputs = Specs.from_json(model["specs"]).inputs
    types = {one.name: one.type.tensor_type.elem_type for one in (*proto.graph.value_info, *proto.graph.output)}
    for place, node in enumerate(proto.graph.node):
        name = node.output[0]
        if not types.get(name):
            continue
        shown = onnx.ModelProto()
        shown.CopyFrom(proto)
        del shown.graph.output[:], shown.graph.node[place + 1 :], shown.graph.value_info[:]
        shown.graph.output.append(onnx.helper.make_tensor_value_info(name, types[name], None))
        path = folder / f"{place}.onnx"
        onnx.save(shown, path)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(types[name]).name
        one = OnnxModel(path, Specs(inputs, (TensorSpec(name, dtype, ()),)))
        try:
            got = answered(target, {"path": str(path), "specs": one.specs.to_json()}, feeds, folder / str(place))
            if got is not None and relative_error(got, judge(one).run(feeds))[0] > tolerance:
                return f"{node.op_type} '{node.name or name}'"
        except Error:
            continue
    return "no single node: the differences add up"


def outcome(error: Exception) -> tuple[str, str]:
    """A failure's class and its words."""
    told = " ".join(str(error).split())
    if "gave no answer within" in told:
        return "timed out", told
    return ("crashed" if "the process of" in told and "ended" in told else "refused"), told


def rows_of(entry: dict[str, Any], corpus: Path, names: list[str], folder: Path) -> Iterator[dict[str, Any]]:
    """One row a target."""
    import targets
    from runtime import engines
    from runtime.contender import call
    from runtime.engines import relative_error
    from runtime.errors import Error

    file, here = entry["file"], "benchmarks.onnx_corpus"
    path = str(corpus / file)
    try:
        truth = call(f"{here}:yardstick", **LIMITS, path=path, folder=str(folder))
    except Error as error:
        truth = {"refused": " ".join(str(error).split())}
    base = {"file": file, "yardstick": truth.get("by", "none"), "untouched": truth.get("refused", "")}
    try:
        model = call(f"{here}:imported", **LIMITS, path=path, folder=str(folder))
    except Error as error:
        kind, reason = outcome(error)
        yield {**base, "target": "(source)", "outcome": kind, "reason": reason}
        return
    base["notes"] = model["notes"]
    feeds = dict(np.load(folder / "feeds.npz"))
    wanted = dict(np.load(folder / "answers.npz"))
    for name in names:
        row = {**base, "target": name}
        try:
            got = answered(name, model, feeds, folder / name)
        except Error as error:
            row["outcome"], row["reason"] = outcome(error)
        else:
            tolerances = engines.get(targets.get(name).engine).TOLERANCE
            tolerance = tolerances.get("f16", 2e-2) if _half(wanted) else tolerances["f32"]
            if got is None:
                row["outcome"] = "built, not run"
            elif (found := relative_error(got, wanted))[0] <= tolerance:
                row |= {"outcome": "equal", "error": found[0]}
            else:
                row |= {"outcome": "differs", "reason": f"output '{found[1]}' by {found[0]:.2g}"}
                if why := KNOWN.get((file, name)):
                    row |= {"known": why, "reason": f"{row['reason']}: {why}"}
                else:
                    inner = folder / f"{name}-nodes"
                    inner.mkdir()
                    row["reason"] += f", first at {first_difference(name, model, feeds, inner, tolerance)}"
        yield row


def _half(arrays: dict[str, Array]) -> bool:
    return any(value.dtype.name == "float16" for value in arrays.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", help="of the manifest; all by default")
    parser.add_argument("--corpus", type=Path, help="the folder with manifest.json")
    parser.add_argument("--zoo", type=Path, help="the folder in which the corpus is one")
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK} files")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    corpus = asked.corpus or (asked.zoo / "onnx_corpus" if asked.zoo else None)
    if corpus is None or not (corpus / "manifest.json").is_file():
        parser.error("give the folder that holds manifest.json: --corpus DIR, or the zoo's: --zoo DIR")
    listed = json.loads((corpus / "manifest.json").read_text())
    if unknown := set(asked.files) - {entry["file"] for entry in listed}:
        parser.error(f"the manifest has no {', '.join(sorted(unknown))}")

    import tensorrt_cpu

    import targets
    from runtime.host import facts, versions

    names = [name for name in targets.names() if targets.get(name).why_not() is None]
    if not tensorrt_cpu.lacking() and "tensorrt" not in names:
        names.append("tensorrt")
    rows = []
    print(f"{'file':58}{'target':13}{'outcome':15}reason")
    wanted = [entry for entry in listed if not asked.files or entry["file"] in asked.files]
    for entry in wanted[: QUICK if asked.quick else None]:
        with tempfile.TemporaryDirectory() as folder:
            for row in rows_of(entry, corpus.absolute(), names, Path(folder)):
                rows.append(row)
                said = row.get("reason") or ""
                print(f"{row['file']:58}{row['target']:13}{row['outcome']:15}{said[:150]}", flush=True)
    counts = Counter((row["target"], row["outcome"]) for row in rows)
    print()
    for (target, kind), count in sorted(counts.items()):
        print(f"{target:13}{kind:15}{count}")
    if asked.json:
        machine = {
            **facts().to_json(),
            "versions": versions(("onnx", "onnxruntime", "openvino", "executorch", "onnxslim")),
        }
        asked.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    bad = [row for row in rows if row["outcome"] in ("crashed", "timed out", "differs") and "known" not in row]
    # what ONNX Runtime runs as it is must come through here, to ONNX Runtime at least
    bad += [row for row in rows if row["outcome"] == "refused" and row["yardstick"] == "ONNX Runtime"
            and row["target"] in ("(source)", "onnxruntime")]  # fmt: skip
    for row in bad:
        print(f"to be mended: {row['file']} {row['target']} {row['outcome']} {row.get('reason', '')}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
