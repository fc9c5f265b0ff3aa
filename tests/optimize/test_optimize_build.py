import functools
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import targets
from optimize import build
from optimize.build import Builder, Built, Lost, batch_of
from optimize.data import NAMES
from optimize.models import OnnxModel, read_onnx, write_onnx
from optimize.plan import Candidate
from optimize.progress import Progress
from optimize.recipe import from_table
from optimize.steps import Context, Settings
from optimize.steps.quantize_static import Step as Quantize
from optimize.steps.simplify import Step as Simplify
from optimize.subject import prepare
from optimize.tables import Limits
from optimize.verify import judge
from runtime import contender, host
from runtime.cache import Cache
from runtime.contender import Worker
from runtime.engines import onnxruntime as engine
from runtime.errors import EngineError, InputError, StepError
from runtime.tensors import Specs, TensorSpec

AXES = {"batch": {"min": 1, "best": 1, "max": 4}}


@pytest.fixture
def subject(tiny_onnx, tiny_data, tmp_path):
    np.savez(tmp_path / "data.npz", **{f"{key}_{n}": v for n in NAMES for key, v in zip("xy", tiny_data, strict=True)})
    table = {
        "model": {"path": str(tiny_onnx), "axes": AXES},
        "data": {"path": "data.npz"},
        "targets": {"reference": {}},
    }
    return prepare(from_table(table, tmp_path), Progress(1, silent=True), tmp_path / "log.txt")


@pytest.fixture
def make(subject, tmp_path):
    """A builder over one cache; a second has forgotten all but that."""

    def made(subject=subject, **versions):
        places = tmp_path / "failed", tmp_path / "log.txt"
        return Builder(subject, Cache(tmp_path / "cache"), versions, *places, Progress(1, silent=True))

    return made


@pytest.fixture
def builder(make):
    return make()


def candidate(target="onnxruntime", role="plain", steps=(), why_not=None):
    found = targets.get(target)
    scheme = found.scheme("host", host.facts())
    return Candidate(f"{target}-{role}", role, found, (Simplify(), *steps), found.plain, scheme, why_not)


class Scaled(Settings):
    """A step that multiplies every weight, badly enough for a test."""

    label: ClassVar[str] = "scaled"
    factor: float = 1.0

    def __call__(self, model: OnnxModel, context: Context) -> OnnxModel:
        proto = onnx.load(model.path)
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * self.factor, tensor.name))
        return write_onnx(proto, context.folder / "model.onnx")


def test_plain_is_built_and_runs_in_a_process_of_its_own(builder, tiny_onnx, tiny_data):
    found = builder.build(candidate())
    assert isinstance(found, Built)
    assert found.precision.startswith("f32 ") and [one.use for one in found.made] == ["simplify"]
    assert found.size_bytes == sum(path.stat().st_size for path in found.files.values()) > 0
    feeds = {"image": tiny_data[0][:3]}
    with Worker.start(found.contender, feeds) as worker:
        np.testing.assert_allclose(
            worker.outputs["output"], judge(read_onnx(tiny_onnx)).run(feeds)["output"], rtol=1e-3, atol=1e-5
        )


def test_quantized_says_its_precision_and_its_noise(builder):
    found = builder.build(candidate(role="steps", steps=(Quantize(),)))
    assert "int8" in found.precision
    assert [one.use for one in found.made] == ["simplify", "quantize_static"]
    assert 10 < found.made[-1].signal_to_noise_db < 80
    assert found.made[-1].notes == ["the biases of 3 layers were corrected"]


def test_a_quantize_step_that_fails_or_has_nothing_to_do_marks_its_candidates_only(builder):
    broken = Quantize(exclude=("*",))
    first = builder.build(candidate("onnxruntime", "steps", (broken,)))
    second = builder.build(candidate("openvino", "steps", (broken,)))
    third = builder.build(candidate("reference", "steps", (broken, Scaled())))
    for lost in (first, second, third):
        assert isinstance(lost, Lost) and lost.status == "dropped"
        assert lost.reason.startswith("the step 'quantize_static' after simplify: there is nothing to quantize")
    failed = builder.build(candidate("onnxruntime", "steps", (Quantize(exclude=("no such node",)),)))
    assert isinstance(failed, Lost) and failed.status == "failed" and "matches nothing" in failed.reason
    assert isinstance(builder.build(candidate(why_not="not here")), Built)


def test_a_step_that_fails_for_the_plain_model_ends_the_work(builder, monkeypatch):
    def fail(self, model, context):
        raise StepError("no such node")

    monkeypatch.setattr(Simplify, "__call__", fail)
    with pytest.raises(StepError, match="the step 'simplify': no such node"):
        builder.build(candidate())


def test_common_steps_are_done_once_and_schemes_are_kept_apart(builder, monkeypatch):
    done = []
    for kind in (Simplify, Quantize):
        true = kind.__call__

        @functools.wraps(true)
        def counted(self, model, context, true=true, kind=kind):
            done.append(kind.__module__.rpartition(".")[2])
            return true(self, model, context)

        monkeypatch.setattr(kind, "__call__", counted)
    made = {}
    for name in ("onnxruntime", "tensorrt"):
        for role, steps in (("plain", ()), ("vendor", ()), ("steps", (Quantize(),)), ("again", (Quantize(),))):
            made[name, role] = builder.build(candidate(name, role, steps, why_not="not here")).model.path
    assert sorted(done) == ["quantize_static", "quantize_static", "simplify"]
    assert made["onnxruntime", "plain"] == made["tensorrt", "vendor"]
    assert made["onnxruntime", "steps"] == made["onnxruntime", "again"] != made["tensorrt", "steps"]


def test_one_candidate_is_made_again_alone(make):
    def cached(**more):
        found = replace(candidate("onnxruntime", "steps", (Quantize(),)), **more)
        return [made.cached for made in make().build(found).made]  # by a run each

    assert cached() == [False, False]
    assert cached() == [True, True]
    assert cached(anew=True) == [True, False]


def test_other_settings_make_another_model(builder):
    first, second = (
        builder.build(candidate("onnxruntime", "steps", (Scaled(factor=factor),), "not here")) for factor in (1.0, 1.01)
    )
    assert first.model.path != second.model.path
    assert first.made[-1].signal_to_noise_db != second.made[-1].signal_to_noise_db


def test_what_cannot_be_built_here_is_judged_by_its_file(builder, tiny_data):
    found = builder.build(candidate("tensorrt", "steps", (Quantize(),), "no GPU: buy one"))
    assert dict(found.files) == {} and found.precision == "" and found.size_bytes == found.model.path.stat().st_size
    feeds = {"image": tiny_data[0][:2]}
    with Worker.start(found.contender, feeds) as worker:
        np.testing.assert_array_equal(worker.outputs["output"], judge(found.model).run(feeds)["output"])


def off(builder, factor):
    """What a file answers, so many times as large."""
    meant = builder._interpreted
    return lambda model: {name: value * factor for name, value in meant(model).items()}


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_an_engine_that_differs_from_its_file_is_wrong(builder, monkeypatch, factor):
    monkeypatch.setattr(builder, "_interpreted", off(builder, factor))
    lost = builder.build(candidate())
    assert lost.status == "wrong" and "its output 'output' differs from its own ONNX file by" in lost.reason
    assert "allowed 0.001" in lost.reason


def test_the_tolerance_is_that_of_the_engine_for_the_format_that_runs(builder, monkeypatch):
    monkeypatch.setattr(builder, "_interpreted", off(builder, 1.01))
    monkeypatch.setitem(engine.TOLERANCE, "f32", 0.1)
    assert isinstance(builder.build(candidate()), Built)


def test_what_a_file_rounds_may_be_a_level_apart_in_whatever_it_is_computed(builder, monkeypatch):
    plain, rounded = (builder.build(candidate("onnxruntime", "steps", steps)) for steps in ((), (Quantize(),)))
    assert (plain.model.rounds, rounded.model.rounds) == (False, True)
    monkeypatch.setattr(builder, "_interpreted", off(builder, 1.01))
    assert builder.build(candidate()).status == "wrong"
    monkeypatch.setattr(OnnxModel, "rounds", True)
    assert isinstance(builder.build(candidate()), Built)


def test_targets_that_are_all_one_to_a_step_share_what_it_makes(builder):
    one, another = candidate("onnxruntime", "steps", (Quantize(),)), candidate("openvino", "steps", (Quantize(),))
    ours, theirs = builder.build(one).model, builder.build(another).model
    other = builder.build(candidate("tensorrt", "steps", (Quantize(),), "no GPU: buy one")).model
    assert ours.path == theirs.path != other.path
    assert one.scheme != another.scheme


def test_nan_of_an_engine_is_wrong_and_named():
    wanted = {"output": np.ones(4, np.float32)}
    lost = build._disagrees({"output": np.full(4, np.nan, np.float32)}, wanted, 0.1)
    assert lost == Lost("wrong", "its output 'output' has NaN or infinity where its ONNX file has none")
    assert build._disagrees(wanted, wanted, 0.1) is None


def test_an_engine_that_does_not_compile_is_lost_with_its_reason(builder, monkeypatch):
    def fail(*arguments, **settings):
        raise EngineError("the process ended by signal SIGSEGV")

    monkeypatch.setattr(contender, "call", fail)
    lost = builder.build(candidate())
    assert lost.status == "failed" and lost.reason.startswith("the process ended by signal SIGSEGV")


def test_an_option_that_the_engine_does_not_know_is_an_error_of_the_input(builder):
    broken = replace(candidate(), options={"no_such_option": 1})
    with pytest.raises(InputError, match="no_such_option"):
        builder.build(broken)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_step_whose_result_gives_nan_is_lost(builder, factor):
    lost = builder.build(candidate("onnxruntime", "steps", (Scaled(factor=factor),)))
    assert lost.status == "failed" and "NaN or infinity in the output 'output'" in lost.reason


def test_a_step_that_drowns_the_signal_says_so(builder):
    found = builder.build(candidate("tensorrt", "steps", (Scaled(factor=-1.0),), "not here"))
    assert "little of the signal is left" in found.made[-1].notes[-1]


@pytest.mark.parametrize(
    ("shape", "axes", "wanted", "batch"),
    [
        (("batch", 3), {"batch": {"min": 1, "max": 16}}, 8, 8),
        (("batch", 3), {"batch": {"min": 1, "max": 4}}, 8, 4),
        (("batch", 3), {"batch": {"min": 12, "max": 16}}, 8, 12),
        (("batch", 3), {}, 8, 8),
        ((5, 3), {}, 8, 5),
    ],
)
def test_the_batch_that_a_model_takes(tmp_path, shape, axes, wanted, batch):
    model = OnnxModel(tmp_path, Specs((TensorSpec("x", "float32", shape),), ()))
    assert batch_of(model, axes, wanted) == batch


def cached(builder, name="onnxruntime", samples=8):
    found = builder.build(candidate(name, "steps", (Quantize(samples=samples),), "not here"))
    assert isinstance(found, Built), found
    return [made.cached for made in found.made], found.model.path.read_bytes()


def test_a_later_run_takes_up_what_was_made(make):
    first, file = cached(make())
    assert first == [False, False]
    assert cached(make()) == ([True, True], file)


def test_another_version_or_setting_or_scheme_is_a_miss(make):
    cached(make())
    assert cached(make(onnxruntime="9.9"))[0] == [False, False]
    assert cached(make(), samples=9)[0] == [True, False]
    assert cached(make(), name="tensorrt")[0] == [True, False]


def test_other_data_is_a_miss(make, subject):
    cached(make())
    facts = subject.facts.splits["calibrate"].model_copy(update={"sha256": "other"})
    splits = {**subject.facts.splits, "calibrate": facts}
    other = replace(subject, facts=subject.facts.model_copy(update={"splits": splits}))
    assert cached(make(other))[0] == [False, False]


def test_another_number_of_threads_is_another_engine_and_the_same_is_compiled_once(make, tmp_path):
    def compiled():
        return sum(facts["use"] == "compile for openvino" for _, facts, _, _ in Cache(tmp_path / "cache").entries())

    one = candidate("openvino")
    first = make().build(one)
    again = make().build(one)
    assert isinstance(first, Built) and isinstance(again, Built)
    assert first.files == again.files and compiled() == 1
    other = make().build(replace(one, options={**one.options, "threads": 1}))
    assert isinstance(other, Built) and other.files != first.files and compiled() == 2
    make(openvino="9.9").build(one)
    assert compiled() == 3


def test_a_damaged_result_is_made_anew(make, tmp_path):
    _, file = cached(make())
    for path in (tmp_path / "cache").glob("*/model.onnx"):
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert cached(make()) == ([False, False], file)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from optimize.build import Builder
from runtime.cache import Cache
from optimize.progress import Progress
from optimize.recipe import load
from optimize import plan
from optimize.subject import prepare
from runtime import host

folder = Path({folder!r})
recipe = load(folder / "recipe.toml")
progress = Progress(2)
progress.stage("check")
subject = prepare(recipe, progress, folder / "log.txt")
progress.stage("make")
places = folder / "failed", folder / "log.txt"
builder = Builder(subject, Cache(folder / "cache"), {{}}, *places, progress)
for candidate in plan.expand(recipe, host.facts()):
    if candidate.role == "steps":
        found = builder.build(candidate)
        for made in found.made:
            print(candidate.name, made.use, made.cached, flush=True)
"""
RECIPE = """
[model]
entry = "model.py:build"
[model.inputs.image]
shape = ["batch", 3, 8, 8]
[data]
path = "data.npz"
[[steps]]
use = "quantize_static"
samples = 8
[targets.onnxruntime]
cpu = "vnni"
[targets.openvino]
cpu = "avx2"
precision = "f32"
"""
MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed({seed})
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


@pytest.fixture
def place(tmp_path, tiny_data):
    np.savez(tmp_path / "data.npz", x=tiny_data[0], y=tiny_data[1])
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "model.py").write_text(MODEL.format(seed=0))
    return tmp_path


def run_script(place, kill_at=None):
    """Its lines of (candidate, step, cached); with `kill_at`, killed by -9 as soon as its progress says so."""
    code = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(place))
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    if kill_at:
        for line in process.stderr:
            if line.rstrip().endswith(kill_at):
                os.killpg(process.pid, signal.SIGKILL)
                break
        else:
            pytest.fail(f"it never said '{kill_at}'")
    out, err = process.communicate(timeout=120)
    assert process.returncode == (-signal.SIGKILL if kill_at else 0), err
    return [tuple(line.split()) for line in out.splitlines()]


def bytes_of(place):
    return sorted(path.read_bytes() for path in (place / "cache").glob("*/model.onnx"))


def test_kill_9_in_each_step_repeats_no_finished_step(place, tmp_path_factory):
    for step in ("export", "simplify", "quantize_static for onnxruntime-int8", "quantize_static for openvino-int8"):
        run_script(place, kill_at=f"make: {step}")
    last = run_script(place)
    kept = {(name, step): cached for name, step, cached in last}
    # the last kill fell into OpenVINO's quantization: all before it was finished, and is taken up
    assert kept.pop(("openvino-int8", "quantize_static")) == "False"
    assert set(kept.values()) == {"True"}
    whole = tmp_path_factory.mktemp("whole")
    for name in ("data.npz", "recipe.toml", "model.py"):
        (whole / name).write_bytes((place / name).read_bytes())
    run_script(whole)
    assert bytes_of(place) == bytes_of(whole)


def test_the_users_files_decide(place):
    assert {line[2] for line in run_script(place)[:3]} == {"False"}
    assert {line[2] for line in run_script(place)} == {"True"}
    (place / "model.py").write_text(MODEL.format(seed=0) + "# another line\n")
    assert {line[2] for line in run_script(place)[:3]} == {"False"}
    with np.load(place / "data.npz") as file:
        x, y = file["x"], file["y"]
    np.savez(place / "data.npz", x=x + np.float32(1e-6), y=y)
    assert {line[2] for line in run_script(place)[:3]} == {"False"}


def test_a_crash_of_the_compiler_is_kept_with_a_script_that_shows_it(make, monkeypatch, tmp_path):
    """The compiler's process dies of a signal; the candidate has failed, and its file and a script are kept."""
    helper = tmp_path / "crashing.py"
    helper.write_text("import os, signal\ndef compile_engine(**_): os.kill(os.getpid(), signal.SIGSEGV)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    true = contender.call
    monkeypatch.setattr(contender, "call", lambda _, *rest, **more: true("crashing:compile_engine", *rest, **more))
    found = make().build(candidate("onnxruntime"))
    assert found.status == "failed" and "SIGSEGV" in found.reason
    script = tmp_path / "failed" / "onnxruntime-plain" / "reproduce.py"
    assert str(script) in found.reason
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "compiled:" in done.stdout and "answered:" in done.stdout, done.stderr
    assert "the output 'output' differs from what " in done.stdout and "means by " in done.stdout


def test_a_compiler_without_end_or_without_measure_is_stopped(make, subject, monkeypatch, tmp_path):
    helper = tmp_path / "endless.py"
    helper.write_text("import time\ndef hang(**_): time.sleep(60)\ndef eat(**_): return len(bytearray(3 << 30))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    true = contender.call
    for function, words in (("hang", "gave no answer within 1 s"), ("eat", "MemoryError")):
        place = f"endless:{function}"
        monkeypatch.setattr(contender, "call", lambda _, *rest, place=place, **more: true(place, *rest, **more))
        places = tmp_path / "failed", tmp_path / "log.txt"
        limits = Limits(seconds=1 if function == "hang" else 60, memory_gib=1)
        builder = Builder(subject, Cache(tmp_path / "cache"), {}, *places, Progress(1, silent=True), limits)
        found = builder.build(candidate("onnxruntime"))
        assert found.status == "failed" and words in found.reason


def test_recovery_learns_from_the_latest_model_that_is_not_pruned(tmp_path, tiny_data, monkeypatch):
    """The original at first; after a recovery that came before any pruning, what that made of it."""
    import torch

    from optimize.steps import export, prune_channels, recover

    (tmp_path / "model.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef build():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), "
        "nn.Flatten(), nn.Linear(16, 5))\n"
    )
    np.savez(tmp_path / "data.npz", **{f"{key}_{n}": v for n in NAMES for key, v in zip("xy", tiny_data, strict=True)})
    table = {
        "model": {"entry": "model.py:build", "axes": AXES, "inputs": {"image": {"shape": ["batch", 3, 8, 8]}}},
        "data": {"path": "data.npz"},
        "targets": {"reference": {}},
    }
    found = prepare(from_table(table, tmp_path), Progress(1, silent=True), tmp_path / "log.txt")
    teachers, call = [], recover.Step.__call__

    @functools.wraps(call)
    def spied(self, model, context):
        teachers.append(context.original.module)
        assert torch.get_num_threads() == 3
        return call(self, model, context)

    monkeypatch.setattr(recover.Step, "__call__", spied)
    places = tmp_path / "failed", tmp_path / "log.txt"
    builder = Builder(found, Cache(tmp_path / "cache"), {}, *places, Progress(1, silent=True), None, 3)
    learn = recover.Step(epochs=1, batch=32)
    one = replace(
        candidate("reference"),
        steps=(learn, prune_channels.Step(ratio=0.5, multiple=1), learn, learn, export.Step(), Simplify()),
    )
    made = builder.build(one)
    assert isinstance(made, Built), made
    assert teachers[0] is found.model.module
    assert teachers[1] is teachers[2] is not teachers[0]
    assert teachers[1][0].out_channels == 16
    assert made.made[1].parameters < made.made[0].parameters
