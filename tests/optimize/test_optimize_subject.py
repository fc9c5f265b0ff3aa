"""By which samples is chosen."""

import numpy as np
import pytest

from optimize.progress import Progress
from optimize.recipe import from_table
from optimize.subject import FEW, prepare

DATA = """
import numpy as np


def splits():
    random = np.random.default_rng(0)
    x = random.standard_normal(({calibrate} + {validate} + 20, 3, 8, 8)).astype(np.float32)
    y = random.integers(0, 5, len(x))
    ends = {calibrate}, {calibrate} + {validate}
    return {{
        "calibrate": (x[: ends[0]], y[: ends[0]]), "validate": (x[ends[0] : ends[1]], y[ends[0] : ends[1]]),
        "test": (x[ends[1] :], y[ends[1] :]),
    }}
"""
MODEL = """
from torch import nn


def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
"""


def prepared(folder, steps, calibrate=300, validate=30):
    (folder / "data.py").write_text(DATA.format(calibrate=calibrate, validate=validate))
    (folder / "model.py").write_text(MODEL)
    table = {
        "model": {"entry": "model.py:build"}, "data": {"entry": "data.py:splits"}, "steps": steps,
        "targets": {"onnxruntime": {}},
    }  # fmt: skip
    return prepare(from_table(table, folder), Progress(1, silent=True), None)


def images(split):
    return np.concatenate([next(iter(feeds.values())) for feeds, _ in split.passes()])


@pytest.mark.parametrize(("calibrate", "more"), [(300, FEW - 30), (50, 50)])
def test_where_validate_is_small_calibrate_is_looked_at_too(tmp_path, calibrate, more):
    subject = prepared(tmp_path, [{"use": "quantize_static"}], calibrate)
    for _ in range(2):  # as often as it is asked for
        found = images(subject.choice)
        assert len(found) == subject.choice_samples == 30 + more
        np.testing.assert_array_equal(found[:30], images(subject.splits.validate))
        np.testing.assert_array_equal(found[30:], images(subject.splits.calibrate)[:more])
    said = [note for note in subject.notes if "the choice went by" in note]
    assert len(said) == 1 and said[0].startswith(
        f"validate has 30 samples, which tell little: the choice went by {more}"
    )
    assert len(images(subject.splits.test)) == 20  # which nothing that chooses has seen


def test_samples_that_a_step_trained_on_choose_nothing(tmp_path):
    subject = prepared(tmp_path, [{"use": "recover", "epochs": 1}, {"use": "quantize_static"}])
    assert subject.choice is subject.splits.validate and subject.choice_samples == 30
    assert not any("the choice went by" in note for note in subject.notes)


def test_a_validate_that_is_large_enough_chooses_alone(tmp_path):
    subject = prepared(tmp_path, [{"use": "quantize_static"}], validate=FEW)
    assert subject.choice is subject.splits.validate and subject.choice_samples == FEW
