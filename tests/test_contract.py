"""What every engine, target, step, source, metric, kind of data, of preprocessing and report form must do.

They are found by listing folders, so a new one is tested by being there.
"""

import inspect
import json
import os
import pkgutil
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, fields, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import tomllib

import targets
from runtime import engines, host, listing, pre
from runtime.errors import EngineError, InputError
from runtime.tensors import Specs, TensorSpec

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))
NEEDS_OPTIMIZE = "pip install 'edge-optimize[optimize]'"

ENGINES = engines.names()
TARGETS = targets.names()


def listed(package: str) -> list[str]:
    """The variants in a folder of `optimize`, which may need an extra to import; the folder is read all the same."""
    folder = ROOT.joinpath(*package.split("."))
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))


STEPS = listed("optimize.steps")
SOURCES = listed("optimize.sources")
METRICS = listed("optimize.metrics")
KINDS_OF_PREPROCESSING = pre.names()
KINDS_OF_DATA = listed("optimize.data")
REPORT_FORMS = [
    name
    for name in listed("optimize.report")
    if re.search(r"^def write\(", (ROOT / "optimize" / "report" / f"{name}.py").read_text(), re.MULTILINE)
]


def ways(engine: str) -> list[dict]:
    """The options with which targets open an engine: plain, as its vendor ships it, and the last that is tried."""
    here = host.facts(gpus=False)
    found = [options for target in map(targets.get, TARGETS) if target.engine == engine
             for options in (target.plain, target.vendor,
                             *list(target.settings(here, target.plain, {"batch": 2}).values())[-1:])]  # fmt: skip
    return [dict(options) for i, options in enumerate(found) if options not in found[:i]] or [{}]


def need(engine: str) -> None:
    """Skip the test where the engine's library is not here, or cannot build here."""
    module = engines.get(engine).DISTRIBUTION.removesuffix("-gpu")  # its wheel holds the same module
    pytest.importorskip(module, reason=f"pip install 'edge-optimize[{engine}]'")
    reasons = [target.why_not() for target in map(targets.get, TARGETS) if target.engine == engine]
    if reasons and all(reasons):
        pytest.skip(str(reasons[0]))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, tiny_onnx):
    """Compile `tiny_onnx` for an engine, once for each set of options."""
    made = {}

    def compile_(engine: str, options: dict) -> dict[str, Path]:
        need(engine)
        key = engine, json.dumps(options, sort_keys=True)
        if key not in made:
            made[key] = engines.get(engine).compile(tiny_onnx, tmp_path_factory.mktemp(engine), options)
        return made[key]

    return compile_


@pytest.fixture
def opened(compiled):
    """Open an engine on `tiny_onnx`; closed after the test."""
    sessions = []

    def open_(engine: str, options: dict | None = None, **changes):
        options = ways(engine)[0] if options is None else options
        files = compiled(engine, options)
        given = {"files": files, "specs": SPECS, "host": host.facts(), "options": options, **changes}
        session = engines.get(engine).open(**given)
        sessions.append(session)
        return session

    yield open_
    for session in sessions:
        session.close()


@pytest.fixture(scope="module")
def reference(tiny_onnx):
    """What is right: ONNX's own evaluator, written down once."""
    pytest.importorskip("onnx", reason=NEEDS_OPTIMIZE)
    session = engines.get("reference").open({"model": tiny_onnx}, SPECS, host.facts(), {})
    yield lambda x: session.run({"image": x})
    session.close()


def tolerance(engine: str, session) -> float:
    """Of the coarsest number format that truly runs."""
    known = engines.get(engine).TOLERANCE
    return max([known["f32"], *(known[name] for name in session.precision() if name in known)])


ENGINE_WAYS = [pytest.param(name, options, id=f"{name}-{options}") for name in ENGINES for options in ways(name)]


# --- engines


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_what_every_engine_has(name):
    engine = engines.get(name)
    assert isinstance(engine.DISTRIBUTION, str)
    assert engine.DISTRIBUTION
    assert "f32" in engine.TOLERANCE
    assert all(isinstance(key, str) and 0 < value < 1 for key, value in engine.TOLERANCE.items())
    assert all(isinstance(key, str) and isinstance(kind, type) for key, kind in engine.OPTIONS.items())
    assert list(inspect.signature(engine.open).parameters) == ["files", "specs", "host", "options"]
    assert list(inspect.signature(engine.compile).parameters) == ["onnx", "out", "options"]


@pytest.mark.parametrize(("name", "options"), ENGINE_WAYS)
def test_an_engine_writes_its_files_where_it_is_told(name, options, tiny_onnx, tmp_path):
    need(name)
    before = {path: path.read_bytes() for path in tiny_onnx.parent.iterdir()}
    files = engines.get(name).compile(tiny_onnx, tmp_path, options)
    assert "model" in files
    assert {path.parent for path in files.values()} == {tmp_path}
    assert set(files.values()) == set(tmp_path.iterdir())
    assert {path: path.read_bytes() for path in tiny_onnx.parent.iterdir()} == before


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("name", "options"), ENGINE_WAYS)
def test_an_engine_answers_as_the_reference_does(name, options, batch, opened, reference, tiny_data):
    session = opened(name, options)
    for start in (0, 20, 40):
        x = tiny_data[0][start : start + batch]
        got, wanted = session.run({"image": x}), reference(x)
        assert list(got) == ["output"]
        assert (got["output"].dtype, got["output"].shape) == (np.float32, (batch, 5))
        error, _ = engines.relative_error(got, wanted)
        assert error <= tolerance(name, session)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_takes_batches_in_any_order(name, opened, reference, tiny_data):
    session = opened(name)
    for batch in (4, 1, 3, 4, 2):
        x = tiny_data[0][:batch]
        assert engines.relative_error(session.run({"image": x}), reference(x))[0] <= tolerance(name, session)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_takes_arrays_however_they_lie_in_memory(name, opened, tiny_data):
    session = opened(name)
    x = np.ascontiguousarray(tiny_data[0][:2])
    wanted = session.run({"image": x})["output"]
    frozen = x.copy()
    frozen.flags.writeable = False
    spread = np.repeat(x, 2, axis=3)[..., ::2]
    for same in (
        frozen,
        spread,
        np.asfortranarray(x),
        x[::-1].copy()[::-1],
        np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
    ):
        np.testing.assert_array_equal(same, x)
        np.testing.assert_array_equal(session.run({"image": same})["output"], wanted)
    np.testing.assert_array_equal(x, tiny_data[0][:2])  # what it was given it has not touched


@pytest.mark.parametrize("name", ENGINES)
def test_an_engines_own_part_can_be_called_alone(name, opened, tiny_data):
    session = opened(name)
    frozen = tiny_data[0][:2].copy()
    frozen.flags.writeable = False
    for x in (tiny_data[0][:3], frozen, np.asfortranarray(tiny_data[0][:2])):
        wanted = session.run({"image": x})["output"]
        once = session.inside({"image": x})
        for _ in range(3):
            once()
        np.testing.assert_array_equal(session.run({"image": x})["output"], wanted)


@pytest.mark.parametrize(("name", "options"), ENGINE_WAYS)
def test_an_engine_says_what_it_uses(name, options, opened):
    session = opened(name, options)
    assert isinstance(session.threads, int)
    assert session.threads >= 1
    precision = dict(session.precision())
    assert all(isinstance(key, str) and isinstance(count, int) and count > 0 for key, count in precision.items())
    json.dumps(precision)
    if options:  # plainly, so in fp32
        assert set(precision) & {"f32", "as the file says"}
        assert not set(precision) & {"bf16", "f16", "int8"}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_fills_what_it_is_given_for_its_outputs(name, opened, tiny_data):
    session = opened(name)
    x = tiny_data[0][:2]
    wanted = session.run({"image": x})["output"]
    for out in (np.full((2, 5), np.nan, np.float32), np.full((5, 2), np.nan, np.float32).T):
        got = session.run({"image": x}, out={"output": out})
        np.testing.assert_array_equal(out, wanted)
        np.testing.assert_array_equal(got["output"], wanted)
    np.testing.assert_array_equal(session.run({"image": x}, out={})["output"], wanted)


@pytest.mark.parametrize("name", ENGINES)
def test_an_answer_of_an_engine_does_not_change_with_the_next(name, opened, tiny_data):
    session = opened(name)
    first = session.run({"image": tiny_data[0][:1]})["output"]
    kept = first.copy()
    session.run({"image": tiny_data[0][1:2]})
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SPECS, inputs=(replace(SPECS.inputs[0], name="picture"),)),
        replace(SPECS, outputs=(replace(SPECS.outputs[0], name="scores"),)),
        replace(SPECS, inputs=(*SPECS.inputs, TensorSpec("mask", "float32", (1,)))),
        replace(SPECS, inputs=()),
        replace(SPECS, outputs=(*SPECS.outputs, TensorSpec("more", "float32", (1,)))),
        replace(SPECS, outputs=()),
    ],
    ids=["input's name", "output's name", "one input more", "no input", "one output more", "no output"],
)
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_checked_against_the_manifest(name, wrong, opened):
    with pytest.raises(EngineError, match="the manifest says"):
        opened(name, specs=wrong)


@pytest.mark.parametrize("name", ENGINES)
def test_an_engines_dtypes_are_checked_against_the_manifest(name, opened):
    with pytest.raises(EngineError):
        opened(name, specs=replace(SPECS, inputs=(replace(SPECS.inputs[0], dtype="int64"),)))


@pytest.mark.parametrize("content", [b"", b"this is no model", b"\0" * 1000])
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_refuses_files_that_are_none(name, content, compiled, tiny_onnx, tmp_path):
    files = {role: tmp_path / path.name for role, path in compiled(name, ways(name)[0]).items()}
    for path in files.values():
        path.write_bytes(content)
    engine = engines.get(name)
    with pytest.raises(EngineError):
        engine.open(files, SPECS, host.facts(), ways(name)[0])
    with pytest.raises(EngineError):
        engine.open({role: tmp_path / "nowhere" / path.name for role, path in files.items()}, SPECS, host.facts(), {})
    (tmp_path / "bad.onnx").write_bytes(content)
    (tmp_path / "out").mkdir()
    if compiled(name, ways(name)[0])["model"].read_bytes() != tiny_onnx.read_bytes():  # more than a copy
        with pytest.raises(EngineError):
            engine.compile(tmp_path / "bad.onnx", tmp_path / "out", ways(name)[0])


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_refuses_options_that_it_does_not_know(name, opened, tiny_onnx, tmp_path):
    with pytest.raises(InputError, match=r"unknown option of .* 'no_such_option'"):
        opened(name, specs=SPECS, options={"no_such_option": 1}, files={"model": tiny_onnx})
    need(name)
    with pytest.raises(InputError, match=r"unknown option of .* 'no_such_option'"):
        engines.get(name).compile(tiny_onnx, tmp_path, {"no_such_option": 1})


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_answers_eight_threads_at_once(name, opened, tiny_data):
    session = opened(name)
    feeds = [{"image": tiny_data[0][i : i + 1 + i % 4]} for i in range(8)]
    wanted = [session.run(feed)["output"] for feed in feeds]
    start = Barrier(8)

    def work(i: int) -> list:
        start.wait(60)
        return [session.run(feeds[(i + n) % 8])["output"] for n in range(10)]

    with ThreadPoolExecutor(8) as pool:
        for i, answers in enumerate(pool.map(work, range(8))):
            for n, answer in enumerate(answers):
                np.testing.assert_array_equal(answer, wanted[(i + n) % 8])


@pytest.mark.parametrize("name", ENGINES)
def test_a_call_of_a_closed_engine_is_an_error(name, opened, tiny_data):
    session = opened(name)
    session.run({"image": tiny_data[0][:1]})
    session.close()
    with pytest.raises(EngineError):
        session.run({"image": tiny_data[0][:1]})
    session.close()  # again, to no harm


FORKABLE = [("runtime.engines", name) for name in ENGINES] + [("optimize.sources", name) for name in SOURCES]


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize(("package", "name"), FORKABLE)
def test_what_is_imported_before_processes_are_forked_starts_no_thread(package, name):
    """But for those of OpenBLAS, which are left out here, and of pyarrow's jemalloc: both know of forks."""
    if package == "optimize.sources":
        pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    modules = getattr(listing.get(package, name, package), "FORKABLE", ())
    code = f"""
import importlib
from pathlib import Path
from runtime import engines
from runtime.forkserver import imported
engines.silence()
imported({modules!r})
threads = [name.read_text().strip() for name in Path("/proc/self/task").glob("[0-9]*/comm")]
print([name for name in threads if name != "jemalloc_bg_thd"][1:])
[importlib.import_module(place.partition(":")[0]) for place in {modules!r}]
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr
    if "ModuleNotFoundError" in done.stderr:  # nothing was seen of what was not imported
        pytest.skip(f"pip install 'edge-optimize[{name if name in EXTRAS else 'optimize'}]'")
    assert done.returncode == 0, done.stderr


def test_engines_and_targets_without_their_libraries_say_what_to_install():
    """In a process that can import nothing but numpy."""
    code = """
import json, sys, tempfile
from importlib.machinery import PathFinder
from pathlib import Path
class Only:
    allowed = {*sys.stdlib_module_names, "numpy", "runtime", "targets"}
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, path, target) if name.partition(".")[0] in Only.allowed else None
sys.meta_path[sys.meta_path.index(PathFinder)] = Only
import targets
from runtime import engines, host
from runtime.errors import EngineMissing
from runtime.tensors import Specs
said = {"engine": {}, "target": {}}
for name in engines.names():
    with tempfile.TemporaryDirectory() as folder:
        try:
            engines.get(name).open({"model": Path(folder) / "x.onnx"}, Specs((), ()), host.facts(), {})
        except EngineMissing as error:
            said["engine"][name] = str(error)
for name in targets.names():
    said["target"][name] = targets.get(name).why_not()
print(json.dumps(said))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert list(said["engine"]) == ENGINES
    assert list(said["target"]) == TARGETS
    for name, sentence in [*said["engine"].items(), *said["target"].items()]:
        extra = re.search(r"pip install 'edge-optimize\[(\w+)\]'", sentence)
        assert extra, (name, sentence)
        assert extra[1] in EXTRAS, (name, sentence)
    for name, sentence in said["engine"].items():  # and the extra that is named brings the library
        extra = EXTRAS[re.search(r"\[(\w+)\]", sentence)[1]]
        assert engines.get(name).DISTRIBUTION in {re.split(r"[^\w-]", requirement)[0] for requirement in extra}


# --- targets


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_says_whether_it_can_be_compiled_for_here(name):
    target = targets.get(name)
    assert target.name == name
    reason = target.why_not()
    if reason is None:
        assert target.engine in ENGINES
    else:
        assert "pip install" in reason or "run on the device" in reason
        assert "\n" not in reason
        assert not re.search(r"\. [A-Z]", reason)  # one sentence


@pytest.mark.parametrize("cpu", targets.CPUS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_has_a_scheme_for_every_processor(name, cpu):
    scheme = targets.get(name).scheme(cpu, host.facts())
    assert isinstance(scheme, targets.Scheme)
    assert scheme.activation in ("uint8", "int8")
    assert scheme.weight in ("uint8", "int8")
    assert scheme.ops
    assert len(set(scheme.ops)) == len(scheme.ops)
    onnx = pytest.importorskip("onnx", reason=NEEDS_OPTIMIZE)
    assert set(scheme.ops) <= {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_on_this_processor_is_one_of_those_that_can_be_named(name):
    target, here = targets.get(name), host.facts()
    assert target.scheme("host", here) in [target.scheme(cpu, here) for cpu in targets.CPUS if cpu != "host"]


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_refuses_an_option_that_it_does_not_know(name):
    target = targets.get(name)
    for option in (*target.options, "cpu"):
        with pytest.raises(InputError, match=rf"unknown option of {name} '{option}x'; did you mean '{option}'\?"):
            target.engine_options({f"{option}x": 1})
    with pytest.raises(InputError, match=r"did you mean 'avx2'\?"):
        target.engine_options({"cpu": "avx-2"})


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_refuses_an_option_of_the_wrong_kind(name):
    target = targets.get(name)
    wrong = {
        int: ["2", True, 0, -1, 1.5, [2]],
        str: [1, True, ["x"], 0.5],
        bool: [1, 0, "yes"],
        float: ["1", True],
        list: ["x", 1],
        dict: ["x", 1, [1]],
    }
    for option, kind in {**target.options, "cpu": str}.items():
        for value in wrong[kind]:
            with pytest.raises(InputError, match=f"'{option}'"):
                target.engine_options({option: value})


@pytest.mark.parametrize("name", TARGETS)
def test_a_targets_options_are_its_engines(name, opened):
    target = targets.get(name)
    assert target.engine_options({}) == dict(target.plain)
    for cpu in targets.CPUS:
        limits = target.limits(cpu)
        assert target.engine_options({"cpu": cpu}) == {**target.plain, **limits}
        assert not set(limits) & set(target.options)  # a user asks for a processor, not for how it is had here
        assert cpu != "host" or not limits
    if target.engine not in ENGINES:
        assert target.why_not()
        return
    values = {int: 1, bool: False, float: 1.0}
    for option, kind in target.options.items():
        if kind in values:
            asked = target.engine_options({option: values[kind]})
            assert asked == {**target.plain, option: values[kind]}
            session = opened(target.engine, asked)
            if option == "threads":
                assert session.threads == 1


# --- what is looked up by listing a folder


FOLDERS = {
    "runtime.engines": ENGINES,
    "runtime.pre": KINDS_OF_PREPROCESSING,
    "targets": TARGETS,
    "optimize.steps": STEPS,
    "optimize.sources": SOURCES,
    "optimize.metrics": METRICS,
    "optimize.data": KINDS_OF_DATA,
}


@pytest.mark.parametrize("package", FOLDERS)
def test_a_folder_is_the_list(package):
    if package.startswith("optimize"):
        pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    assert FOLDERS[package]
    assert listing.names(package) == FOLDERS[package]
    for name in FOLDERS[package]:
        assert listing.get(package, name, "thing").__name__ == f"{package}.{name}"
        with pytest.raises(InputError, match=rf"unknown thing '{name}_'; did you mean '{name}'\?") as caught:
            listing.get(package, f"{name}_", "thing")
        assert all(known in str(caught.value) for known in FOLDERS[package])
    for odd in ("", ".", "__init__", "../x", "a.b", "no such thing"):
        with pytest.raises(InputError, match="unknown thing"):
            listing.get(package, odd, "thing")


# --- steps


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_a_frozen_settings_model(name):
    pydantic = pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    from optimize import steps
    from optimize.models import OnnxModel, TorchModel

    kind = steps.get(name)
    try:
        step, whole = kind(), True  # it has a default for everything
    except pydantic.ValidationError:
        step, whole = kind.model_construct(), False  # or asks for a goal, which nobody can guess
    assert isinstance(step, steps.Settings)
    assert steps.name_of(step) == name
    assert {steps.takes(step), steps.gives(step)} <= {TorchModel, OnnxModel}
    with pytest.raises(pydantic.ValidationError, match="no_such_key"):
        kind(no_such_key=1)
    for field in kind.model_fields:
        with pytest.raises(pydantic.ValidationError):
            setattr(step, field, getattr(step, field))
    assert not whole or kind(**json.loads(step.model_dump_json())) == step
    assert (kind.__doc__ or "").strip()
    assert isinstance(kind.exact, bool)
    assert isinstance(kind.label, str)


# --- sources and data


SUFFIXES = [
    "onnx",
    "npz",
    "npy",
    "csv",
    "tsv",
    "parquet",
    "txt",
    "jsonl",
    "json",
    "zip",
    "tar",
    "pt2",
    "ts",
    "pth",
    "pt",
    "safetensors",
    "h5",
    "keras",
    "pb",
    "tflite",
    "joblib",
    "pkl",
    "skops",
    "gguf",
    "mlmodel",
    "xml",
    "wav",
]
PLACES = (
    "",
    "x",
    "dir/",
    "file.py:build",
    "a.py:",
    ":",
    "s3://x/y.onnx",
    "é.py:f",
    "a b",
    *(f"a.{s}" for s in SUFFIXES),
)


def own_place(package: str, name: str, folder: Path) -> tuple[str, bool]:
    """A place of the kind that a module claims, where nothing is; any, and False, where it claims by what is there."""
    claims = listing.get(package, name, "thing").claims
    own = [place for place in (f"{folder}/nothing/{place}" for place in PLACES if place) if claims(place)]
    return (own[0], True) if own else (f"{folder}/nothing/there", False)


@pytest.mark.parametrize("package", ["optimize.sources", "optimize.data"])
def test_every_place_is_claimed_or_not(package):
    pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    for name in FOLDERS[package]:
        claims = listing.get(package, name, "thing").claims
        assert {type(claims(place)) for place in PLACES} == {bool}
        assert claims("") is False
        assert claims("no such kind of thing") is False


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_found_by_its_kind_of_place_and_refuses_what_is_not_there(name, tmp_path):
    pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    from optimize import sources

    with pytest.raises(InputError, match="not a model that any source knows") as caught:
        sources.detect("no such kind of thing")
    assert name in str(caught.value)
    place, claimed = own_place("optimize.sources", name, tmp_path)
    if find_spec(name) is None:  # not imported: Keras would take whichever backend comes first
        pytest.skip(f"pip install 'edge-optimize[{name if name in EXTRAS else 'optimize'}]'")
    assert not claimed or sources.detect(place) == name
    spec = sources.ModelSpec(name, place)
    with pytest.raises(InputError, match=re.escape(place.rpartition(":")[0] or place)):
        sources.load(spec)
    arguments = dict(spec.contender().arguments)
    assert json.loads(json.dumps(arguments)) == {"spec": {**arguments["spec"], "inputs": []}}  # for another process


@pytest.mark.parametrize("name", KINDS_OF_DATA)
def test_a_kind_of_data_is_found_by_its_kind_of_place_and_refuses_what_is_not_there(name, tmp_path):
    pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    from optimize import data

    with pytest.raises(InputError, match="not data that is known here") as caught:
        data.detect("no such kind of thing")
    assert name in str(caught.value)
    place, claimed = own_place("optimize.data", name, tmp_path)
    assert not claimed or data.detect(place) == name
    with pytest.raises(InputError, match=re.escape(place.rpartition(":")[0] or place)):
        data.load(name, place)


# --- preprocessing


@pytest.mark.parametrize("name", KINDS_OF_PREPROCESSING)
def test_a_kind_of_preprocessing_has_what_every_kind_has(name):
    kind = listing.get("runtime.pre", name, "thing")
    assert any(re.match(r"[\w-]+", one) for one in EXTRAS[kind.EXTRA])
    assert kind.EXTRA in re.split(r"[\[\],]", EXTRAS["all"][0])
    assert type(kind.FILES) is tuple
    assert list(inspect.signature(kind.suited).parameters) == ["inputs"]
    assert list(inspect.signature(kind.open).parameters) == ["settings", "files", "inputs"]
    assert all(inspect.getdoc(one) for one in (kind, kind.Settings, kind.suited, kind.open))
    settings = pre.settings(name, {})
    with pytest.raises(FrozenInstanceError):
        settings.input = "x"
    for field in fields(settings):  # each is told of, and can be given by its name
        assert f"{field.name}:" in inspect.getdoc(kind.Settings), field.name
        assert pre.settings(name, {field.name: getattr(settings, field.name)}) == settings
    assert not set(kind.FILES) & {field.name for field in fields(settings)}


@pytest.mark.parametrize("name", KINDS_OF_PREPROCESSING)
def test_a_kind_of_preprocessing_refuses_what_it_does_not_know(name):
    known = fields(listing.get("runtime.pre", name, "thing").Settings)[0].name
    with pytest.raises(InputError, match=rf"'{known}x'; did you mean '{known}'"):
        pre.settings(name, {f"{known}x": 1})
    with pytest.raises(InputError, match=rf"the preprocessing '{name}'"):
        pre.settings(name, {known: {"a": "table"}})
    with pytest.raises(InputError):
        pre.suited(name, [])


@pytest.mark.parametrize(
    "name", [one for one in KINDS_OF_PREPROCESSING if not listing.get("runtime.pre", one, "thing").FILES]
)
def test_a_reader_that_needs_no_files_is_one(name, tmp_path):
    kind = listing.get("runtime.pre", name, "thing")
    module = {"image": "PIL", "audio": "soundfile"}.get(name, name)
    pytest.importorskip(module, reason=f"pip install 'edge-optimize[{kind.EXTRA}]'")
    reader = pre.PreSpec(name, (name,), {}, {}).open([])
    assert reader.fills
    assert reader.most >= 1
    with pytest.raises(InputError, match=r"nowhere"):
        reader.sample(str(tmp_path / "nowhere"))
    with pytest.raises(InputError):
        reader.sample(object())


# --- metrics


def answers_and_labels(metric):
    """Answers that are perfect, the labels in the form that the metric takes, and answers that could not be worse."""
    numbers = np.arange(12) % 8
    spans = np.stack([np.tile([0, 7], (12, 1)), np.full((12, 2), -1), np.stack([numbers, numbers], 1)], 1)
    scores = 50 * np.eye(8, dtype=np.float32)[numbers]
    maps, map_labels = (np.repeat(v[..., None], 3, -1) for v in (scores, numbers))
    texts = np.tile(np.arange(3), (12, 1))
    objects = np.tile(np.array([[[10.0, 10, 30, 30, 1]]]), (12, 1, 1))
    boxes = np.tile(np.array([[[10.0, 10, 30, 30, 0.9, 1]]]), (12, 1, 1))
    known = (
        (scores, scores, -scores), (scores, numbers, -scores), (maps, map_labels, -maps),
        (np.moveaxis(maps, 1, 2), map_labels, -np.moveaxis(maps, 1, 2)), (texts, texts, texts + 5),
        (boxes, objects, np.add(boxes, [50, 50, 50, 50, 0, 0])),
        (scores, spans, -scores), (np.moveaxis(maps, 1, 2), np.moveaxis(maps, 1, 2), -np.moveaxis(maps, 1, 2)),
    )  # fmt: skip
    for answers, labels, worse in known:
        try:
            metric.update(twice(answers), labels)
        except InputError:
            continue
        return answers, labels, worse
    raise AssertionError(f"{metric.name} takes no form of labels known here")


def twice(answers):
    """As two outputs: most metrics judge the first, those of spans where they begin and end."""
    return {"output": answers, "another": answers}


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_streams(name):
    pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    from optimize import metrics

    metric = metrics.get(name)
    assert metric.name == name
    assert isinstance(metric.unit, str)
    scores, labels, worse = answers_and_labels(metric)
    rows_of = metrics.Rows.of
    whole = rows_of(metric.update(twice(scores), labels))
    assert whole.values.ndim == 2
    assert whole.values.dtype == np.float64
    assert len(whole) == len(scores)
    assert whole.counts.sum() == len(whole.values)
    parts = [rows_of(metric.update(twice(scores[i:j]), labels[i:j])) for i, j in ((0, 5), (5, 6), (6, 12))]
    np.testing.assert_allclose(metrics.Rows.joined(parts).values, whole.values)
    best, worst = (metric.finish(rows_of(metric.update(twice(one), labels)).values) for one in (scores, worse))
    assert isinstance(best, float)
    assert isinstance(worst, float)
    assert (best > worst) == metric.higher_is_better
    assert best != worst
    if name == "calibration_error":
        assert best == pytest.approx(0, abs=1e-6)  # its worst would be sure of itself as well
    elif name == "pr_auc":
        assert best == pytest.approx(1) and worst < 0.5  # precision is never 0 where there is anything to find
    elif metric.unit == "share":
        assert (best, worst) == pytest.approx((1.0, 0.0) if metric.higher_is_better else (0.0, 1.0), abs=1e-6)
    order = np.random.default_rng(1).permutation(12)
    assert metric.finish(whole.take(order)) == pytest.approx(best)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_refuses_labels_that_cannot_be(name):
    pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    from optimize import metrics

    metric = metrics.get(name)
    scores, _, _ = answers_and_labels(metric)
    for labels in (np.zeros((12, 3, 4), np.float32), np.zeros(7, np.int64), np.array(["a"] * 12)):
        with pytest.raises(InputError):
            metric.update(twice(scores), labels)


# --- report forms


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("pydantic", reason=NEEDS_OPTIMIZE)
    from optimize.report import Accuracy, Data, Latency, Report, Row, SplitFacts

    latency = Latency(
        p50_ms=1.0, p50_interval_ms=(0.9, 1.1), p90_ms=1.2, p90_interval_ms=(1.1, 1.3), p99_ms=2.0,
        p99_interval_ms=(1.5, 2.5), rounds=8, samples=16, raw=[[1_000_000, 1_100_000]] * 8,
    )  # fmt: skip
    faster = latency.model_copy(update={"ratio": 2.0, "low": 1.9, "high": 2.1, "verdict": "faster"})
    seen = Accuracy(metric="accuracy", value=0.9, samples=100)
    lost = seen.model_copy(update={"value": 0.85, "drop": 0.05, "low": 0.02, "high": 0.08, "verdict": "exceeds"})
    return Report(
        made_with={"numpy": "2"}, made_at="2026-11-24T00:00:00", machine={"cpu": "a processor", "cores": 2},
        recipe={"model": {"source": "onnx"}}, inputs=["x: float32[batch, 3]"], outputs=["y: float32[batch]"], batch=1,
        data=Data(
            place="data.npz", labels=True, metric="accuracy", unit="share", higher_is_better=True,
            splits={name: SplitFacts(samples=100, sha256="0" * 64) for name in ("calibrate", "validate", "test")},
        ),
        max_drop=0.01, objective="latency",
        original=Row(name="original", engine="torch", status="measured", accuracy=seen, latency=latency),
        candidates=[
            Row(
                name="some_target <int8> | größer", target="some_target", engine="some_engine", status="measured",
                accuracy=lost, validate_=lost, latency=faster, size_bytes=2**20,
            ),
            Row(name="broken", target="some_target", engine="some_engine", status="failed", reason="it crashed"),
        ],
        screening=None, headline=None, chosen={"some_target": "some_target <int8> | größer"},
        why={"some_target": "the fastest"}, closest={}, notes=["a note"], seconds=1.0, exit_code=1, bundle="bundle",
    )  # fmt: skip


def test_there_is_a_form_to_read():
    assert REPORT_FORMS


@pytest.mark.parametrize("name", REPORT_FORMS)
def test_a_report_form_writes_one_file(name, report, tmp_path):
    form = listing.get("optimize.report", name, "form")
    path = form.write(report, tmp_path)
    assert [path] == list(tmp_path.iterdir())
    assert path.stem == "report"
    text = path.read_text(encoding="utf-8")
    for part in ("größer", "it crashed", "a processor", "some_target"):
        assert part in text
    assert form.write(report, tmp_path) == path  # a second time it is written over
    assert path.read_text(encoding="utf-8") == text


def test_the_report_as_json_is_the_report(report):
    from optimize.report import Report

    assert Report.model_validate_json(report.model_dump_json(by_alias=True)) == report
