import copy
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from optimize import checkpoint, training
from optimize.data import Split
from optimize.losses import Targets, loss, score
from optimize.models import TorchModel
from optimize.steps.recover import Step
from runtime.errors import InputError
from runtime.tensors import TensorSpec

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"epochs": 3, "batch": 32, "lr": 1e-2}


@pytest.fixture
def damaged(residual, torch_context):
    """A network that never learnt anything."""
    return TorchModel(residual(), torch_context.inputs)


def accuracy(model, context):
    feeds, labels = context.calibrate.take(160)
    with torch.no_grad():
        return float((model.module(torch.from_numpy(feeds["image"])).argmax(1).numpy() == labels).mean())


def same(one, other):
    first, second = one.module.state_dict(), other.module.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def augmentation(tmp_path, body, name="augment.py"):
    file = tmp_path / name
    file.write_text(f"import numpy as np\ncalls = []\n\ndef augment(feeds, random):\n    calls.append(1)\n    {body}\n")
    return f"{file}:augment"


# --- that it learns


@pytest.mark.parametrize(
    "settings",
    [{"optimizer": "adamw"}, {"optimizer": "sgd", "schedule": "onecycle", "lr": 0.1},
     {"schedule": "constant", "clip": 0}, {"ema": 0.9}, {"precision": "bf16"}],
    ids=str,
)  # fmt: skip
def test_a_damaged_network_learns_from_labels(damaged, torch_context, settings):
    context = torch_context(original=None)
    before = accuracy(damaged, context)
    found = Step(**{**QUICK, "epochs": 8, **settings})(damaged, context)
    assert before < 0.5 and accuracy(found, context) > 0.9
    assert not found.module.training and "recover: 8 passes of 5 steps in" in context.notes[-1]
    assert f"validate accuracy {before:.4f} before" in context.notes[-1]
    assert all(value.is_contiguous() and value.dtype != torch.bfloat16 for value in found.module.state_dict().values())


@pytest.mark.parametrize(
    ("precision", "sets", "said"),
    [("auto", ("avx2",), ", in fp32 since it has no instructions for bf16"), ("auto", ("avx512_bf16",), " in bf16"),
     ("bf16", ("avx2",), " in bf16, for which it has no instructions"), ("bf16", ("bf16",), " in bf16"),
     ("fp32", ("bf16",), "")],
)  # fmt: skip
def test_the_precision_is_said_and_auto_goes_by_the_processor(
    damaged, torch_context, monkeypatch, precision, sets, said
):
    here = replace(training.host.facts(gpus=False), instruction_sets=sets)
    monkeypatch.setattr(training.host, "facts", lambda gpus=True: here)
    context = torch_context(original=None)
    Step(**QUICK, precision=precision)(damaged, context)
    assert f" s on cpu{said}; validate " in context.notes[-1]


def test_a_module_that_needs_its_pictures_contiguous_is_trained_so(torch_context):
    """`view` of a picture that lies channels last is an error in torch."""

    class Viewing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.classifier = torch.nn.Linear(8 * 16 * 16, 5)

        def forward(self, image):
            x = torch.relu(self.conv(image))
            return self.classifier(x.view(len(x), -1))

    model = TorchModel(Viewing().eval(), (TensorSpec("image", "float32", ("batch", 3, 16, 16)),))
    context = torch_context(original=None)
    Step(**QUICK)(model, context)
    assert "recover: " in context.notes[-1] and "no number" not in " ".join(context.notes)


def test_it_learns_from_the_original_without_labels(damaged, learned, torch_context):
    context = torch_context(labels=False, original=learned)
    found = Step(**{**QUICK, "epochs": 10})(damaged, context)
    assert accuracy(found, torch_context()) > 0.9
    assert "validate loss" in context.notes[-1]


def test_it_learns_from_both(damaged, learned, torch_context):
    found = Step(**{**QUICK, "epochs": 8}, distill=0.7)(damaged, torch_context(original=learned))
    assert accuracy(found, torch_context()) > 0.9


def test_neither_what_is_given_nor_the_original_changes(damaged, learned, torch_context):
    before = [copy.deepcopy(one.module.state_dict()) for one in (damaged, learned)]
    Step(**QUICK)(damaged, torch_context(original=learned))
    for one, state in zip((damaged, learned), before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in one.module.state_dict().items())
        assert not one.module.training
    assert all(parameter.grad is None for parameter in damaged.module.parameters())


def test_other_random_numbers_are_left_as_they_were(damaged, torch_context):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    Step(**QUICK)(damaged, torch_context())
    assert torch.equal(torch.rand(1), wanted)


def test_the_seed_says_all(damaged, torch_context):
    one, two = (Step(**QUICK)(damaged, torch_context()) for _ in range(2))
    assert same(one, two)
    assert not same(one, Step(**QUICK, seed=1)(damaged, torch_context()))


def test_with_nothing_to_learn_from(damaged, torch_context):
    with pytest.raises(InputError, match="nothing to learn from: no labels in calibrate, and no original"):
        Step(**QUICK)(damaged, torch_context(labels=False, original=None))


def test_without_validate_the_last_weights_are_kept(damaged, torch_context):
    context = torch_context(validate=None)
    Step(**QUICK, patience=1)(damaged, context)
    assert context.notes[-1].endswith("the last weights were kept")


# --- when it stops


def test_minutes_end_it_and_the_schedule_follows_the_clock(damaged, torch_context, monkeypatch):
    clock = iter(float(second) for second in range(10_000))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    rates = []
    monkeypatch.setattr(training, "rate", lambda settings, share: rates.append(share) or 0.01)
    Step(epochs=1000, batch=32, minutes=0.5)(damaged, torch_context())
    assert len(rates) < 40 and rates == sorted(rates) and 0.8 < rates[-1] < 1


def test_early_stopping_keeps_the_best(damaged, torch_context, monkeypatch):
    scores = iter([[0.1], [0.5], [0.7], [0.6], [0.4], [0.9]])
    kept = []
    true = training._Training._score

    def scored(self):
        kept.append(checkpoint.copied(self.module))
        true(self)
        return next(scores)

    monkeypatch.setattr(training._Training, "_score", scored)
    context = torch_context()
    found = Step(**{**QUICK, "epochs": 9}, patience=2)(damaged, context)
    assert len(kept) == 5
    assert all(torch.equal(kept[2][name], value) for name, value in found.module.state_dict().items())
    assert context.notes[-1].endswith("best after pass 2")


def test_what_gets_no_better_is_left_as_it_was(learned, torch_context):
    context = torch_context()
    found = Step(epochs=2, batch=32, lr=10.0, optimizer="sgd", clip=0)(learned, context)
    assert accuracy(found, context) >= accuracy(learned, context)


def test_validate_is_for_judging_alone(damaged, torch_context):
    context = torch_context()
    feeds, labels = context.calibrate.take(40)
    other = Split("validate", lambda: [(feeds, labels)])
    shifted = Split("validate", lambda: [(feeds, (labels + 1) % 5)])
    one, two = (Step(**{**QUICK, "epochs": 1})(damaged, torch_context(validate=v)) for v in (other, shifted))
    assert same(one, two) or accuracy(two, context) == accuracy(damaged, context)


# --- what the learning rate does


def test_schedules():
    cosine, onecycle, constant = (Step(schedule=name, warmup=0.1) for name in ("cosine", "onecycle", "constant"))
    for step in (cosine, onecycle, constant):
        assert 0 < training.rate(step, 0.0) < 0.05 and training.rate(step, 0.05) == pytest.approx(0.5)
    assert training.rate(cosine, 0.1) == 1 and training.rate(cosine, 1.0) == pytest.approx(0, abs=1e-9)
    assert training.rate(cosine, 0.55) == pytest.approx(0.5)
    assert training.rate(onecycle, 0.1 + 0.9 * 0.3) == pytest.approx(1) and training.rate(
        onecycle, 0.1
    ) == pytest.approx(0.04)
    assert training.rate(onecycle, 1.0) == pytest.approx(0, abs=1e-9)
    assert training.rate(constant, 0.9) == 1
    assert training.rate(Step(warmup=0), 0.0) == 1


# --- when it goes wrong


def test_nan_is_rolled_back_and_said(damaged, torch_context, tmp_path):
    place = augmentation(tmp_path, "return {'image': feeds['image'] * (np.float32('nan') if len(calls) == 8 else 1)}")
    context = torch_context()
    found = Step(**{**QUICK, "epochs": 9}, augment=place)(damaged, context)
    assert accuracy(found, context) > 0.9
    assert all(torch.isfinite(value).all() for value in found.module.state_dict().values())
    assert context.notes[0].startswith(
        "recover: the loss was no number in pass 2; it went back to the weights at the end"
    )
    assert "halved the learning rate" in context.notes[0]


def test_nan_all_the_time_ends_with_the_weights_given(damaged, torch_context, tmp_path):
    place = augmentation(tmp_path, "return {'image': feeds['image'] * np.float32('nan')}")
    context = torch_context()
    found = Step(**{**QUICK, "epochs": 50}, augment=place)(damaged, context)
    assert same(found, damaged)
    assert sum("no number" in note for note in context.notes) == training.ROLLBACKS


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return {'image': feeds['image'][:, :, :8]}", r"returned float32 \(32, 3, 8, 16\) for 'image'; it must be"),
        ("return {'image': feeds['image'].astype(float)}", "returned float64"),
        ("return {}", "returned nothing for 'image'"),
        ("raise ValueError('no')", "the augmentation raised ValueError: no"),
    ],
)
def test_an_augmentation_that_does_not_fit(damaged, torch_context, tmp_path, body, message):
    with pytest.raises(InputError, match=message):
        Step(**QUICK, augment=augmentation(tmp_path, body))(damaged, torch_context())


def test_an_augmentation_is_told_the_random_numbers(damaged, torch_context, tmp_path):
    place = augmentation(tmp_path, "return {'image': feeds['image'] + random.normal(size=1).astype('float32')}")
    one, two = (Step(**QUICK, augment=place)(damaged, torch_context()) for _ in range(2))
    assert same(one, two) and not same(one, Step(**QUICK)(damaged, torch_context()))
    assert Step(augment="a.py:f").resolved(lambda place: f"/there/{place}").augment == "/there/a.py:f"


def test_labels_that_do_not_fit(damaged, torch_context):
    context = torch_context()
    feeds, labels = context.calibrate.take(64)
    wrong = replace(
        context, calibrate=Split("calibrate", lambda: [(feeds, np.stack([labels, labels], 1))]), validate=None
    )
    with pytest.raises(InputError, match=r"whole-number labels \(32, 2\) do not fit the first output, \(32, 5\)"):
        Step(**QUICK)(damaged, wrong)


# --- when it is killed


class Killed(Exception):
    pass


@pytest.mark.parametrize("settings", [{}, {"ema": 0.9, "optimizer": "sgd"}], ids=str)
def test_a_killed_run_goes_on_and_ends_where_it_would_have(damaged, learned, torch_context, tmp_path, settings):
    step = Step(**{**QUICK, "epochs": 4}, distill=0.3, **settings)
    whole = step(damaged, torch_context(original=learned))

    def kill(done, total, what):
        if "pass 3" in what:
            raise Killed

    context = torch_context(original=learned, folder=tmp_path)
    with pytest.raises(Killed):
        step(damaged, replace(context, progress=kill))
    assert (tmp_path / checkpoint.FILE).exists() and len(list(tmp_path.iterdir())) == 3
    resumed = step(damaged, context)
    assert same(resumed, whole)
    assert "recover went on from its checkpoint after pass 2" in context.notes


def test_a_checkpoint_of_something_else_is_not_taken(damaged, residual, torch_context, tmp_path):
    context = torch_context(folder=tmp_path)
    Step(**QUICK)(damaged, context)
    Step(**QUICK, seed=3)(damaged, context)
    Step(**QUICK, seed=3)(replace(damaged, module=residual(seed=9)), context)
    assert not any("went on" in note for note in context.notes)


@pytest.mark.parametrize("file", ["recover.json", "recover-3.safetensors", "recover-3.pt"])
def test_a_damaged_checkpoint_is_not_taken(damaged, torch_context, tmp_path, file):
    context = torch_context(folder=tmp_path)
    whole = Step(**QUICK)(damaged, context)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:40])
    assert same(Step(**QUICK)(damaged, context), whole)
    assert not any("went on" in note for note in context.notes)


def test_a_finished_one_is_not_trained_again(damaged, torch_context, tmp_path):
    context = torch_context(folder=tmp_path)
    whole = Step(**QUICK)(damaged, context)
    calls = []
    again = Step(**QUICK)(damaged, replace(context, progress=lambda *_: calls.append(1)))
    assert same(again, whole) and not calls


# --- losses


def test_the_loss_of_a_classifier():
    torch.manual_seed(0)
    got, answers = torch.randn(6, 5), torch.randn(6, 5)
    labels = torch.randint(0, 5, (6,))
    hard = nn.functional.cross_entropy(got, labels)
    soft = 9 * (answers / 3).softmax(1).mul((answers / 3).log_softmax(1) - (got / 3).log_softmax(1)).sum(1).mean()
    step = Step(distill=0.25, temperature=3)
    wanted = Targets(labels, {"output": answers})
    torch.testing.assert_close(loss({"output": got}, wanted, step), 0.75 * hard + 0.25 * soft)
    torch.testing.assert_close(loss({"output": got}, Targets(labels, None), step), hard)
    assert score({"output": got}, wanted, step)[0] == float((got.argmax(1) == labels).float().mean())


def test_the_loss_without_labels_knows_no_scale():
    torch.manual_seed(0)
    got, answers = torch.randn(6, 5), torch.randn(6, 5)
    small = loss({"a": got}, Targets(None, {"a": answers}), Step())
    large = loss({"a": got * 1000}, Targets(None, {"a": answers * 1000}), Step())
    torch.testing.assert_close(small, large)
    assert loss({"a": answers}, Targets(None, {"a": answers}), Step()) == 0
    with pytest.raises(InputError, match="no output is of floating point"):
        loss({"a": torch.ones(3, dtype=torch.int64)}, Targets(None, {"a": torch.ones(3, dtype=torch.int64)}), Step())


def test_the_loss_of_real_numbers_and_of_maps():
    got = torch.zeros(4, 1)
    assert loss({"a": got}, Targets(torch.ones(4), None), Step()) == 1
    with pytest.raises(InputError, match="do not fit the first output"):
        loss({"a": got}, Targets(torch.ones(4, 3), None), Step())
    maps = loss({"a": torch.zeros(2, 3, 4, 4)}, Targets(torch.zeros(2, 4, 4, dtype=torch.int64), None), Step())
    assert float(maps) == pytest.approx(math.log(3))


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"minutes": 0}, {"batch": 1}, {"optimizer": "lion"}, {"lr": 0}, {"distill": 2}, {"ema": 1},
     {"warmup": 1}, {"patience": 0}, {"epoch": 3}],
)  # fmt: skip
def test_settings_that_cannot_be(settings):
    with pytest.raises(ValidationError):
        Step(**settings)


# --- two processes

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from torch import nn
from optimize.data import NAMES, from_arrays
from optimize.models import TorchModel
from optimize.steps import Context
from optimize.steps.recover import Step
from runtime.tensors import TensorSpec
from targets import Scheme
import os

torch.set_num_threads(1)
random = np.random.default_rng(0)
x = random.standard_normal((256, 8)).astype(np.float32)
y = x[:, :4].argmax(1)
splits = from_arrays(dict.fromkeys(NAMES, {"x": x, "y": y}), "here")
folder = Path(sys.argv[1]) / os.environ["RANK"]
folder.mkdir(parents=True)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4)).eval()
model = TorchModel(net, (TensorSpec("x", "float32", ("batch", 8)),))
context = Context(splits.calibrate, {}, Scheme(ops=()), folder, validate=splits.validate, original=None)
found = Step(epochs=15, batch=32, lr=0.02, minutes=5)(model, context)
with torch.no_grad():
    accuracy = float((found.module(torch.from_numpy(x)).argmax(1).numpy() == y).mean())
torch.save(found.module.state_dict(), folder / "weights.pt")
assert context.notes[-1].count("in 2 processes"), context.notes
assert (folder / "recover.json").exists() == (os.environ["RANK"] == "0")
(folder / "accuracy").write_text(str(accuracy))
"""


def test_two_processes_train_one_network(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # accelerate 1.15's `launch --cpu --num_processes 2` starts a second process through mpirun alone; --multi_gpu does
    # through torch's own launcher, and the environment says that it is the CPU nonetheless
    launch = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "--num_cpu_threads_per_process", "1",
    ]  # fmt: skip
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "out")], capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / "out" / rank / "weights.pt", weights_only=True) for rank in "01")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert float((tmp_path / "out" / "0" / "accuracy").read_text()) > 0.9
