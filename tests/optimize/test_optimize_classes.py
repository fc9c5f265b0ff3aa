"""Labels by name: numbered as the model has its classes, and taken by number where the names are others."""

from dataclasses import replace

import numpy as np
import pytest

from optimize.classes import aligned
from optimize.data import from_arrays


@pytest.mark.parametrize(
    ("own", "known", "numbers", "words"),
    [
        (("bad", "good"), ("Good", "Bad"), [1, 0, 1], "numbered anew, in the model's order: Good, Bad"),
        (("bad", "good"), ("meh", "bad", "good"), [1, 2, 1], "numbered anew"),
        (("bad", "good"), ("bad", "good", "meh"), [0, 1, 0], None),
        (("bad", "good"), ("bad", "great"), [0, 1, 0], "the class 'good', which is none of the model's (bad, great)"),
        (("bad", "good"), (), [0, 1, 0], None),
        ((), ("good", "bad"), [0, 1, 0], None),
    ],
)
def test_labels_follow_the_models_names(own, known, numbers, words):
    arrays = {"x": np.zeros((3, 1)), "y": np.array([0, 1, 0])}
    splits = from_arrays(dict.fromkeys(("calibrate", "validate", "test"), arrays), "here")
    found = aligned(replace(splits, classes=own), known)
    np.testing.assert_array_equal(found.test.take(3)[1], numbers)
    assert any(words in note for note in found.notes) if words else found.notes == ()
