import numpy as np
import pytest
import torch

from optimize import teacher
from optimize.steps.recover import Step
from optimize.teacher import Teacher

SAMPLES = torch.arange(10.0)[:, None] * torch.tensor([1.0, -1.0])


@pytest.fixture
def asked():
    return []


@pytest.fixture
def pupil(asked):
    """Who asks a teacher that doubles, and writes down what it was asked."""

    def double(arguments):
        assert not torch.is_grad_enabled()
        asked.append(arguments[0][:, 0].tolist())
        return {"twice": arguments[0] * 2, "row": arguments[0][:, 0]}

    return Teacher(double, len(SAMPLES))


def answered(pupil, rows):
    rows = np.array(rows)
    found = pupil([SAMPLES[rows]], rows)
    assert torch.equal(found["twice"], SAMPLES[rows] * 2) and torch.equal(found["row"], SAMPLES[rows, 0])


def test_each_sample_is_asked_for_once_in_whatever_order(pupil, asked):
    answered(pupil, [3, 1, 2])
    answered(pupil, [2, 3])
    answered(pupil, [7, 1, 0])
    answered(pupil, [0, 1, 2, 3, 7])
    assert asked == [[3, 1, 2], [7, 0]]


def test_samples_that_are_not_as_they_were_are_asked_for_each_time(pupil, asked):
    for _ in range(2):
        assert torch.equal(pupil([SAMPLES[:2]], None)["twice"], SAMPLES[:2] * 2)
    assert len(asked) == 2


def test_answers_that_take_too_much_memory_are_asked_for_each_time(pupil, asked, monkeypatch):
    monkeypatch.setattr(teacher, "HELD_BYTES", 10 * (8 + 4) - 1)
    answered(pupil, [3, 1])
    answered(pupil, [3, 1])
    assert asked == [[3, 1], [3, 1]]


@pytest.mark.parametrize("other", [torch.zeros(()), torch.zeros(1, 2)], ids=["scalar", "state"])
def test_what_has_no_row_a_sample_is_not_remembered(other):
    asked = []
    forgetful = Teacher(lambda arguments: {"state": other + len(asked), "row": asked.append(1) or arguments[0]}, 10)
    for calls in (0, 1):
        assert torch.equal(forgetful([SAMPLES[:2]], np.array([0, 1]))["state"], other + calls)


@pytest.mark.parametrize("augmented", [False, True])
def test_training_asks_once_a_sample_unless_it_changes_them(residual, torch_context, tmp_path, augmented):
    from optimize.models import TorchModel

    original = TorchModel(residual(), torch_context.inputs)
    asked = []
    original.module.register_forward_hook(lambda module, given, answer: asked.append(len(given[0])))
    (tmp_path / "augment.py").write_text("def augment(feeds, random):\n    return feeds\n")
    augment = f"{tmp_path / 'augment.py'}:augment" if augmented else None
    model = TorchModel(residual(), torch_context.inputs)
    Step(epochs=3, batch=32, augment=augment)(model, torch_context(original=original, validate=None))
    assert sum(asked) == 160 * (3 if augmented else 1)
