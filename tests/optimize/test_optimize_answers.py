"""How a candidate's answers differ: what is counted, streamed or not; and what a flipped sample looks like."""

import base64
import io

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from optimize import thumbnails
from optimize.answers import CLASS_SAMPLES, FLIPS, Answers
from optimize.data import Split


def scores(samples=300, classes=4, noise=0.7, seed=0):
    random = np.random.default_rng(seed)
    before = random.standard_normal((samples, classes)).astype(np.float32)
    after = before + noise * random.standard_normal(before.shape).astype(np.float32)
    return before, after, random.integers(0, classes, samples)


def found(before, after, labels, batch=1000):
    answers = Answers()
    for start in range(0, len(before), batch):
        part = slice(start, start + batch)
        answers.update({"y": before[part]}, {"y": after[part]}, None if labels is None else labels[part], start)
    return answers.finish()


def test_counts_by_hand():
    before, after, labels = scores()
    was, now = before.argmax(1), after.argmax(1)
    seen = found(before, after, labels)
    assert seen.agreement == pytest.approx((was == now).mean())
    assert seen.flipped == (was != now).sum()
    assert (
        seen.lost == ((was == labels) & (now != labels)).sum() and seen.won == ((was != labels) & (now == labels)).sum()
    )
    assert seen.sqnr_db == pytest.approx(10 * np.log10((before**2).sum() / ((before - after) ** 2).sum()), rel=1e-4)
    a, b = (value / np.linalg.norm(value, axis=1, keepdims=True) for value in (before, after))
    assert seen.cosine == pytest.approx((a * b).sum(1).mean(), rel=1e-4)
    for one in seen.classes:
        own = labels == one.number
        assert one.samples == own.sum() >= CLASS_SAMPLES
        assert one.before == pytest.approx(sklearn_metrics.accuracy_score(labels[own], was[own]))
    losses = [one.after - one.before for one in seen.classes]
    assert losses == sorted(losses) and len(losses) == 4


def test_batches_make_no_difference():
    before, after, labels = scores()
    whole, parts = found(before, after, labels), found(before, after, labels, batch=7)
    assert whole.model_dump(exclude={"sqnr_db", "cosine"}) == parts.model_dump(exclude={"sqnr_db", "cosine"})
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db) and parts.cosine == pytest.approx(whole.cosine)


def test_a_flip_keeps_its_number_where_a_batch_was_left_out():
    before, after, labels = scores(20, noise=3)
    answers = Answers()
    answers.update({"y": before[8:]}, {"y": after[8:]}, labels[8:], 8)
    seen = answers.finish().flips
    assert seen and all(one.before == before[one.sample].argmax() and one.sample >= 8 for one in seen)


def test_the_flips_of_which_the_original_was_surest_come_first():
    before, after, labels = scores(noise=3)
    seen = found(before, after, labels).flips
    assert len(seen) == FLIPS
    sure = [one.confidence_before for one in seen]
    assert sure == sorted(sure, reverse=True)
    for one in seen:
        assert (one.before, one.after) == (before[one.sample].argmax(), after[one.sample].argmax())
        assert one.label == labels[one.sample]


def test_rare_classes_have_no_accuracy_of_their_own():
    before, after, labels = scores(60, 10)
    assert all(one.samples >= CLASS_SAMPLES for one in found(before, after, labels).classes)


def test_without_labels_there_is_agreement_and_no_right_or_wrong():
    before, after, _ = scores()
    seen = found(before, after, None)
    assert seen.agreement is not None and seen.lost is None and not seen.classes and seen.flips[0].label is None


def test_equal_answers_and_answers_that_are_no_scores():
    before, _, labels = scores()
    same = found(before, before, labels)
    assert (same.agreement, same.flipped, same.sqnr_db, same.flips) == (1.0, 0, None, [])
    series = found(before[:, :1], before[:, :1] + 0.1, None)
    assert series.agreement is None and series.sqnr_db is not None
    assert found(labels, labels, None).sqnr_db is None


def pictures(shape, dtype=np.float32):
    values = np.random.default_rng(0).random((5, *shape)) * 200
    return Split(
        "test", lambda: iter([({"x": values[:3].astype(dtype)}, None), ({"x": values[3:].astype(dtype)}, None)])
    )


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 40, 30), (40, 30, 3), (28, 28), (3, 224, 224)])
def test_pictures_are_shown_as_small_ones(shape):
    from PIL import Image

    seen = thumbnails.shown(pictures(shape), [1, 4])
    assert sorted(seen) == [1, 4] and seen[1] != seen[4]
    head, _, data = seen[4].partition(",")
    assert head == "data:image/png;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert max(image.size) <= thumbnails.SIDE and len(data) < 12_000


@pytest.mark.parametrize(("shape", "says"), [((4,), ","), ((2, 3, 4, 5), "…"), ((5, 6), "…")])
def test_other_things_are_shown_by_their_values(shape, says):
    assert says in thumbnails.shown(pictures(shape), {0})[0]


def test_pictures_of_one_colour_or_not_finite_are_no_trouble():
    flat = Split("test", lambda: iter([({"x": np.ones((1, 1, 9, 9), np.float32)}, None)]))
    assert thumbnails.shown(flat, {0})[0].startswith("data:image/png")


def test_numbers_that_moved_furthest_are_shown_with_what_they_were():
    random = np.random.default_rng(0)
    before = {"y": random.standard_normal((40, 1)).astype(np.float32)}
    after = {"y": before["y"] + 0.01}
    after["y"][7] += 2
    after["y"][21] -= 1
    found = Answers()
    labels = np.arange(40, dtype=np.float32)
    for start in (0, 20):
        part = slice(start, start + 20)
        found.update({"y": before["y"][part]}, {"y": after["y"][part]}, labels[part], start)
    moved = found.finish().moved
    assert [one.sample for one in moved[:2]] == [7, 21] and len(moved) == 12
    assert moved[0].label == 7 and moved[0].share == pytest.approx(2.01, abs=1e-3)
    assert moved[0].after - moved[0].before == pytest.approx(2.01, abs=1e-3)


def test_pictures_that_moved_are_shown_by_their_share():
    before = np.ones((6, 1, 4, 4), np.float32)
    after = before.copy()
    after[3] *= 1.5
    found = Answers()
    found.update({"y": before}, {"y": after}, None, 0)
    (moved,) = found.finish().moved
    assert moved.sample == 3 and moved.share == pytest.approx(0.5) and moved.before is None


def test_classes_that_the_model_chose_itself_have_no_noise_and_no_confidence():
    before, after, labels = scores()
    wanted = found(before, after, labels)
    few = [np.argsort(-value, 1)[:, :2] for value in (before, after)]
    forms = [{"y": before.argmax(1)}, {"y": after.argmax(1)}], [{"y": one, "y_scores": one * 1.5} for one in few]
    for was, now in forms:
        answers = Answers(numbers=False)
        answers.update(was, now, labels, 0)
        seen = answers.finish()
        same = {"agreement", "flipped", "lost", "won", "classes"}
        assert seen.model_dump(include=same) == wanted.model_dump(include=same)
        assert (seen.sqnr_db, seen.cosine, seen.calibration_error, seen.flips[0].confidence_before) == (None,) * 4


def test_boxes_are_not_compared_as_numbers():
    answers = Answers(numbers=False)
    answers.update({"y": np.ones((4, 3, 6))}, {"y": np.zeros((4, 3, 6))}, None, 0)
    assert answers.finish() == type(answers.finish())()
