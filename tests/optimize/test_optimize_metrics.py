from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from optimize import metrics
from optimize.metrics import custom
from runtime.errors import InputError


def value(name, output, labels, **how):
    metric = metrics.get(name, **how)
    return metric.finish(metric.update({"output": output}, labels))


def random_scores(samples=200, classes=12, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((samples, classes)).astype(np.float32), random.integers(0, classes, samples)


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_is_named_like_its_file_and_streams(name):
    metric = metrics.get(name)
    assert metric.name == name
    scores, labels = random_scores()
    labels = labels if metric.unit == "share" and name != "agreement" else scores + 0.5
    whole = metric.update({"output": scores}, labels)
    parts = [metric.update({"output": scores[i : i + 7]}, labels[i : i + 7]) for i in range(0, 200, 7)]
    assert whole.shape[0] == 200 and whole.ndim == 2 and whole.dtype == np.float64
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert np.isfinite(metric.finish(whole))


def test_unknown_metric_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'accuracy'"):
        metrics.get("acuracy")


def test_accuracy_by_hand():
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], np.float32)
    metric = metrics.get("accuracy")
    statistics = metric.update({"first": scores, "second": -scores}, np.array([1, 0, 0, 0]))
    np.testing.assert_array_equal(statistics, [[1], [1], [0], [1]])
    assert metric.finish(statistics) == 0.75 and metric.higher_is_better


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "bool"])
def test_accuracy_takes_every_whole_number_and_a_column_of_them(dtype):
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7]])
    labels = np.array([1, 0, 0]).astype(dtype)
    assert value("accuracy", scores, labels) == value("accuracy", scores, labels[:, None]) == pytest.approx(2 / 3)


def test_accuracy_of_maps_is_the_share_of_pixels_by_sample():
    random = np.random.default_rng(1)
    scores = random.standard_normal((5, 4, 6, 7))
    labels = random.integers(0, 4, (5, 6, 7))
    metric = metrics.get("accuracy")
    statistics = metric.update({"output": scores}, labels)
    right = scores.argmax(1) == labels
    np.testing.assert_array_equal(statistics, np.stack([right.reshape(5, -1).sum(1), np.full(5, 42)], 1))
    assert metric.finish(statistics) == pytest.approx(right.mean())
    assert metric.finish(statistics) == pytest.approx(
        sklearn_metrics.accuracy_score(labels.ravel(), right_classes(scores))
    )


def right_classes(scores):
    return scores.argmax(1).ravel()


@pytest.mark.parametrize("name", ["accuracy", "top5"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 12]), "label 12 is outside the model's classes, 0 to 11"),
        (np.array([0, -1, 1]), "label -1 is outside"),
        (np.array([0.0, 1.0, 2.0]), "dtype float64"),
        (np.array(["a", "b", "c"]), "whole number"),
        (np.array([0, 1]), r"shape \(2,\)"),
        (np.zeros((3, 12), np.int64), r"shape \(3, 12\)"),
        (np.zeros((3, 1, 1), np.int64), r"shape \(3, 1, 1\)"),
    ],
)
def test_labels_that_cannot_be_are_refused(name, labels, message):
    with pytest.raises(InputError, match=message):
        value(name, random_scores(3)[0], labels)


@pytest.mark.parametrize("name", ["accuracy", "top5"])
def test_an_output_without_classes_is_refused(name):
    with pytest.raises(InputError, match=r"needs \(samples, classes"):
        value(name, np.zeros(3), np.zeros(3, np.int64))


@pytest.mark.parametrize("classes", [6, 12, 100])
def test_top5_equals_sklearn(classes):
    scores, labels = random_scores(300, classes)
    expected = sklearn_metrics.top_k_accuracy_score(labels, scores, k=5, labels=np.arange(classes))
    assert value("top5", scores, labels) == pytest.approx(expected)
    assert 0 < expected < 1


def test_top5_of_five_classes_is_always_right():
    assert value("top5", *random_scores(50, 5)) == 1


def test_top5_of_maps_has_one_row_a_sample():
    random = np.random.default_rng(1)
    scores, labels = random.standard_normal((5, 9, 3, 4)), random.integers(0, 9, (5, 3, 4))
    statistics = metrics.get("top5").update({"output": scores}, labels)
    assert statistics.ndim == 2 and len(statistics) == 5


@pytest.mark.parametrize(
    ("name", "expected"), [("mse", sklearn_metrics.mean_squared_error), ("mae", sklearn_metrics.mean_absolute_error)]
)
@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3)])
def test_errors_equal_sklearn(name, expected, shape):
    random = np.random.default_rng(2)
    output, labels = random.standard_normal((2, *shape))
    metric = metrics.get(name)
    assert value(name, output.astype(np.float32), labels) == pytest.approx(expected(labels, output), rel=1e-5)
    assert not metric.higher_is_better


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_errors_are_averaged_within_a_sample(name):
    output = np.zeros((2, 2, 3), np.float32)
    output[1] = 2.0
    statistics = metrics.get(name).update({"output": output}, np.zeros((2, 2, 3)))
    np.testing.assert_array_equal(statistics, [[0.0], [4.0 if name == "mse" else 2.0]])


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_a_column_and_a_row_of_labels_are_the_same(name):
    output = np.arange(4, dtype=np.float32)[:, None]
    labels = np.array([1, 1, 1, 1])
    assert value(name, output, labels) == value(name, output[:, 0], labels[:, None]) > 0


def test_errors_are_computed_in_double_precision():
    output = np.full((4, 1), 300, np.float16)
    assert value("mse", output, np.zeros(4)) == 90_000  # its square overflows float16


@pytest.mark.parametrize("name", ["mse", "mae"])
@pytest.mark.parametrize("shape", [(4, 2), (3, 3), (4, 2, 3, 1)])
def test_errors_of_other_shapes_are_refused(name, shape):
    with pytest.raises(InputError, match="needs the same"):
        value(name, np.zeros((4, 3, 3)), np.zeros(shape))


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_labels_with_other_axes_are_not_reshaped_into_fitting(name):
    channels_first, channels_last = np.zeros((4, 3, 8, 8)), np.zeros((4, 8, 8, 3))
    with pytest.raises(InputError, match="needs the same"):
        value(name, channels_first, channels_last)


@pytest.mark.parametrize("name", ["mse", "mae"])
def test_errors_of_words_are_refused(name):
    with pytest.raises(InputError):
        value(name, np.zeros(3), np.array(["a", "b", "c"]))


def test_agreement_is_with_the_classes_of_the_original():
    original = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    candidate = np.array([[2.0, 9.0], [0.1, 0.2], [0.3, 0.6]])
    assert value("agreement", candidate, original) == pytest.approx(2 / 3)
    assert value("agreement", original, original) == 1


@pytest.mark.parametrize("name", ["accuracy", "top5", "agreement"])
def test_axes_that_old_classifiers_leave_behind_make_no_map(name):
    scores, labels = random_scores(20)
    statistics = metrics.get(name).update({"output": scores[:, :, None, None]}, labels_for(name, scores, labels))
    plain = metrics.get(name).update({"output": scores}, scores if name == "agreement" else labels)
    np.testing.assert_array_equal(statistics, plain)  # one column, and so the interval of a right-or-wrong metric


def labels_for(name, scores, labels):
    return scores[:, :, None, None] if name == "agreement" else labels


def test_agreement_of_maps():
    random = np.random.default_rng(3)
    original, candidate = random.standard_normal((2, 4, 3, 5, 5))
    assert value("agreement", candidate, original) == pytest.approx((original.argmax(1) == candidate.argmax(1)).mean())


def write(folder: Path, text: str, name: str = "measure.py") -> str:
    (folder / name).write_text(text)
    return f"{folder / name}:score"


def in_batches(metric, outputs, labels, size=16):
    return np.concatenate(
        [
            metric.update({key: one[i : i + size] for key, one in outputs.items()}, labels[i : i + size])
            for i in range(0, len(labels), size)
        ]
    )


def test_custom_number_a_sample(tmp_path):
    place = write(tmp_path, "def score(outputs, labels): return abs(outputs[:, 0] - labels)")
    metric = metrics.get(place, "lower")
    random = np.random.default_rng(4)
    output, labels = random.standard_normal((50, 1)), random.standard_normal(50)
    statistics = in_batches(metric, {"output": output}, labels)
    assert statistics.shape == (50, 1) and not metric.higher_is_better
    assert metric.finish(statistics) == pytest.approx(abs(output[:, 0] - labels).mean())


def test_custom_whole_set_f1_equals_the_direct_computation(tmp_path):
    place = write(
        tmp_path,
        "from sklearn.metrics import f1_score\n"
        "def score(outputs, labels): return f1_score(labels, outputs.argmax(1), average='macro')\n",
    )
    metric = custom(place, "higher")
    scores, labels = random_scores(120, 4, seed=5)
    statistics = in_batches(metric, {"output": scores}, labels)
    expected = sklearn_metrics.f1_score(labels, scores.argmax(1), average="macro")
    assert metric.finish(statistics) == pytest.approx(expected) and metric.higher_is_better
    rows = np.random.default_rng(6).integers(0, 120, 120)  # and on a resampling, rows in another order
    again = sklearn_metrics.f1_score(labels[rows], scores[rows].argmax(1), average="macro")
    assert metric.finish(statistics[rows]) == pytest.approx(again)


def test_custom_whole_set_of_several_outputs_gets_them_by_name_in_their_shapes(tmp_path):
    place = write(
        tmp_path,
        "def score(outputs, labels):\n"
        "    assert outputs['boxes'].shape[1:] == (2, 4) and outputs['boxes'].dtype == 'float32'\n"
        "    assert outputs['scores'].shape[1:] == () and labels.dtype == 'int64' and labels.shape[1:] == (3,)\n"
        "    return float((outputs['boxes'].sum((1, 2)) * outputs['scores'] - labels.sum(1)).mean())\n",
    )
    metric = custom(place, "higher")
    random = np.random.default_rng(7)
    outputs = {"boxes": random.random((40, 2, 4), np.float32), "scores": random.random(40, np.float32)}
    labels = random.integers(0, 9, (40, 3))
    expected = (outputs["boxes"].sum((1, 2)) * outputs["scores"] - labels.sum(1)).mean()
    assert metric.finish(in_batches(metric, outputs, labels)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("better", [None, "", "up", "Higher"])
def test_custom_without_a_sense_is_refused(tmp_path, better):
    with pytest.raises(InputError, match='better = "higher" or "lower"'):
        metrics.get(write(tmp_path, "def score(outputs, labels): return 1.0"), better)


@pytest.mark.parametrize(
    "body",
    [
        "raise KeyError('no such thing')",
        "return None",
        "return 'good'",
        "return float('nan')",
        "return float('inf')",
        "return outputs * float('nan')",
        "return outputs[1:]",
        "return labels[:, None] * 1.0",
    ],
)
def test_custom_that_raises_or_gives_no_number_is_refused(tmp_path, body):
    metric = custom(write(tmp_path, f"def score(outputs, labels):\n    {body}\n"), "higher")
    with pytest.raises(InputError, match=r"measure\.py:score"):
        metric.finish(metric.update({"output": np.arange(6.0)}, np.arange(6)))


def test_custom_that_is_not_there_is_refused(tmp_path):
    write(tmp_path, "def store(outputs, labels): return 1.0")
    with pytest.raises(InputError, match="did you mean 'store'"):
        custom(f"{tmp_path / 'measure.py'}:score", "higher")
