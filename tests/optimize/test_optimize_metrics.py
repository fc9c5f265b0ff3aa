from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from optimize import metrics
from optimize.metrics import Rows, custom
from runtime.errors import InputError


def value(name, output, labels, **how):
    metric = metrics.get(name, **how)
    return metric.finish(Rows.of(metric.update({"output": output}, labels)).values)


def random_scores(samples=200, classes=12, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((samples, classes)).astype(np.float32), random.integers(0, classes, samples)


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


# --- against the libraries' own figures, and rows that belong together


def probabilities(scores):
    e = np.exp(scores - scores.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_of_what_was_called_as_scikit_learn_has_it(name, classes):
    scores, labels = random_scores(150, classes)
    average = "binary" if classes == 2 else "macro"
    wanted = getattr(sklearn_metrics, f"{name}_score")(labels, scores.argmax(1), average=average)
    assert value(name, scores, labels) == pytest.approx(wanted)


def test_roc_auc_as_scikit_learn_has_it():
    scores, labels = random_scores(150, 2)
    wanted = sklearn_metrics.roc_auc_score(labels, probabilities(scores)[:, 1])
    assert value("roc_auc", scores, labels) == pytest.approx(wanted)
    assert value("roc_auc", probabilities(scores), labels) == pytest.approx(wanted)
    alone = (scores[:, 1] - scores[:, 0])[:, None]
    assert value("roc_auc", alone, labels) == value("roc_auc", alone[:, 0], labels[:, None]) == pytest.approx(wanted)
    coarse = alone.round()  # many are equal
    assert value("roc_auc", coarse, labels) == pytest.approx(sklearn_metrics.roc_auc_score(labels, coarse))
    many, labels = random_scores(150, 4)
    wanted = sklearn_metrics.roc_auc_score(labels, probabilities(many), multi_class="ovr")
    assert value("roc_auc", many, labels) == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(InputError, match="0 or 1"):
        value("roc_auc", alone, labels + 1)


def test_roc_auc_of_one_class_has_no_value():
    scores, labels = random_scores(20, 2)
    assert np.isnan(value("roc_auc", scores, labels * 0))


def test_pr_auc_as_scikit_learn_has_it():
    scores, labels = random_scores(300, 2)
    labels = labels * (np.arange(300) % 4 == 0)  # a rare class
    wanted = sklearn_metrics.average_precision_score(labels, probabilities(scores)[:, 1])
    alone = (scores[:, 1] - scores[:, 0])[:, None]
    assert value("pr_auc", scores, labels) == value("pr_auc", alone, labels) == pytest.approx(wanted)
    assert value("pr_auc", np.zeros(300), labels) == pytest.approx(labels.mean())  # what knows nothing
    coarse = alone.round()  # many are equal
    wanted = sklearn_metrics.average_precision_score(labels, coarse)
    assert value("pr_auc", coarse, labels) == pytest.approx(wanted)
    many, labels = random_scores(150, 4)
    wanted = sklearn_metrics.average_precision_score(np.eye(4)[labels], probabilities(many), average="macro")
    assert value("pr_auc", many, labels) == pytest.approx(wanted, abs=1e-6)
    assert np.isnan(value("pr_auc", alone, np.zeros(300, int)))


@pytest.mark.parametrize("given", [lambda scores: scores, probabilities])
def test_log_loss_as_scikit_learn_has_it(given):
    scores, labels = random_scores(150, 4)
    wanted = sklearn_metrics.log_loss(labels, probabilities(scores.astype(np.float64)))
    assert value("log_loss", given(scores), labels) == pytest.approx(wanted, rel=1e-5)


def test_a_probability_of_zero_costs_much_and_not_everything():
    assert value("log_loss", np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(-np.log(1e-12))


def test_r2_and_spearman_as_the_libraries_have_them():
    from scipy import stats

    random = np.random.default_rng(3)
    labels = random.standard_normal((60, 3))
    output = labels + random.standard_normal((60, 3)).round(0)
    assert value("r2", output, labels) == pytest.approx(sklearn_metrics.r2_score(labels.ravel(), output.ravel()))
    found = value("spearman", output, labels)
    assert found == pytest.approx(stats.spearmanr(output.ravel(), labels.ravel()).statistic)
    assert np.isnan(value("spearman", output * 0, labels))


def test_psnr_by_hand():
    labels = np.zeros((2, 1, 4, 4), np.float32)
    output = labels + np.array([0.1, 0.01], np.float32).reshape(2, 1, 1, 1)
    assert value("psnr", output, labels) == pytest.approx((20 + 40) / 2, abs=1e-4)
    assert value("psnr", output[:1] * 255, labels[:1].astype(np.uint8)) == pytest.approx(20, abs=1e-4)
    assert value("psnr", labels, labels) == pytest.approx(100)


def test_miou_as_scikit_learn_has_it():
    random = np.random.default_rng(4)
    scores, labels = random.standard_normal((6, 3, 5, 7)), random.integers(0, 3, (6, 5, 7))
    wanted = sklearn_metrics.jaccard_score(labels.ravel(), scores.argmax(1).ravel(), average="macro")
    assert value("miou", scores, labels) == pytest.approx(wanted)
    ignored = labels.copy()
    ignored[:, :2] = 255
    kept = sklearn_metrics.jaccard_score(labels[:, 2:].ravel(), scores.argmax(1)[:, 2:].ravel(), average="macro")
    assert value("miou", scores, ignored) == pytest.approx(kept)
    with pytest.raises(InputError, match="outside the model's classes"):
        value("miou", scores, labels + 1)


def test_word_error_rate_by_hand():
    said = np.array(["the cat sat", "on the mat"])
    heard = np.array(["the cat sat down", "on a mat"])
    assert value("word_error_rate", heard, said) == pytest.approx(2 / 6)
    assert value("word_error_rate", heard.astype(object), said) == pytest.approx(2 / 6)
    numbers = np.array([[1, 2, 3, -1], [4, 5, -1, -1]])
    assert value("word_error_rate", np.array([[1, 3, -1, -1], [4, 5, -1, -1]]), numbers) == pytest.approx(1 / 5)
    with pytest.raises(InputError, match="a text a sample"):
        value("word_error_rate", np.zeros((2, 3)), numbers)


def test_perplexity_is_torchs_cross_entropy_exponentiated():
    torch = pytest.importorskip("torch", reason="pip install 'edge-optimize[all]'")
    random = np.random.default_rng(5)
    scores, labels = random.standard_normal((4, 6, 11)).astype(np.float32), random.integers(0, 11, (4, 6))
    labels[0, 3:] = -100
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(scores).reshape(-1, 11), torch.from_numpy(labels.ravel()))
    assert value("perplexity", scores, labels) == pytest.approx(float(loss.exp()), rel=1e-5)


def test_calibration_error_of_the_sure_and_wrong_is_one():
    sure = np.tile([[1.0, 0.0]], (10, 1))
    assert value("calibration_error", sure, np.ones(10, int)) == pytest.approx(1)
    assert value("calibration_error", sure, np.zeros(10, int)) == pytest.approx(0)
    even = np.array([[0.75, 0.25]] * 4)
    assert value("calibration_error", even, np.array([0, 0, 0, 1])) == pytest.approx(0)


def boxes(random, pictures=30, most=6, classes=3):
    """Detections and objects as average_precision takes them, the former the latter moved, some lost, some made up."""
    labels = np.full((pictures, most, 5), -1.0)
    found = np.zeros((pictures, most + 2, 6))
    for i in range(pictures):
        for j in range(random.integers(0, most + 1)):
            corner, size = random.uniform(0, 80, 2), random.uniform(8, 40, 2)
            labels[i, j] = [*corner, *(corner + size), random.integers(0, classes)]
            if random.random() < 0.85:
                moved = labels[i, j, :4] + random.normal(0, 2.5, 4)
                found[i, j] = [*moved, random.uniform(0.2, 1), labels[i, j, 4]]
        if random.random() < 0.5:
            corner = random.uniform(0, 80, 2)
            found[i, -1] = [*corner, *(corner + 20), random.uniform(0.05, 0.6), random.integers(0, classes)]
    return found, labels


def test_average_precision_as_pycocotools_has_it():
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found, labels = boxes(np.random.default_rng(6))

    def whole(array, class_at, kept):
        rows = [(i, box) for i, own in enumerate(array) for box in own if kept(box)]
        made = COCO()
        made.dataset = {
            "images": [{"id": i} for i in range(len(array))],
            "categories": [{"id": i} for i in range(3)],
            "annotations": [
                {
                    "id": n + 1, "image_id": i, "category_id": int(box[class_at]), "iscrowd": 0, "score": float(box[4]),
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": float((box[2] - box[0]) * (box[3] - box[1])),
                }
                for n, (i, box) in enumerate(rows)
            ],
        }  # fmt: skip
        made.createIndex()
        return made

    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(whole(labels, 4, lambda b: b[4] >= 0), whole(found, 5, lambda b: b[4] > 0), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    metric = metrics.get("average_precision")
    rows = metric.update({"boxes": found}, labels)
    assert metric.finish(rows.values) == pytest.approx(judge.stats[0], abs=1e-9)
    assert 0.2 < judge.stats[0] < 0.9 and len(rows) == 30
    parts = [Rows.of(metric.update({"boxes": found[i : i + 7]}, labels[i : i + 7])) for i in range(0, 30, 7)]
    np.testing.assert_array_equal(Rows.joined(parts).values, rows.values)
    one = rows.take(np.array([4, 4, 9]))
    assert len(one) == 2 * rows.counts[4] + rows.counts[9]


@pytest.mark.parametrize("name", [name for name in metrics.names() if metrics.get(name).drawn])
def test_pictures_drawn_are_worth_what_their_rows_are(name):
    random, metric, without = np.random.default_rng(8), metrics.get(name), 0
    for pictures in (1, 2, 5, 30):
        found, labels = boxes(random, pictures)
        labels[0], found[0, 0] = -1, [0, 0, 9, 9, 0.5, 7]  # no object, and an answer of a class that has none anywhere
        rows = Rows.of(metric.update({"boxes": found}, labels))
        figure = metric.drawn(rows)
        for _ in range(20):
            samples = random.integers(0, pictures, pictures)
            expected = metric.finish(rows.take(samples))
            without += np.isnan(expected)
            assert figure(samples) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert 20 < without < 60  # of the single picture always, of two now and then
    blocks = Rows(rows.values, np.bincount(np.arange(len(rows.values)) // 3))  # as those of a single picture are drawn
    figure = metric.drawn(blocks)
    for _ in range(20):
        samples = random.integers(0, len(blocks), 4)
        assert figure(samples) == pytest.approx(metric.finish(blocks.take(samples)), abs=1e-12, nan_ok=True)


def test_rows_go_with_their_sample():
    rows = Rows(np.arange(12.0).reshape(6, 2), np.array([1, 0, 3, 2]))
    np.testing.assert_array_equal(rows.take(np.array([2, 0, 2, 1]))[:, 0], [2, 4, 6, 0, 2, 4, 6])
    np.testing.assert_array_equal(rows.take(np.array([3]))[:, 0], [8, 10])
    assert len(rows) == 4 and len(Rows.of(np.zeros((5, 1)))) == 5


def test_top_of_any_number():
    scores, labels = random_scores()
    assert value("top1", scores, labels) == value("accuracy", scores, labels)
    assert value("top12", scores, labels) == 1
    assert metrics.get("top3").name == "top3"
    with pytest.raises(InputError, match="top0"):
        metrics.get("top0")


def test_classes_that_the_model_chose_itself_count_as_the_largest_scores_do():
    scores, labels = random_scores(50, 6)
    few = np.argsort(-scores, 1)[:, :3]
    chosen, best = {"y": scores.argmax(1)}, {"y": few, "y_scores": np.take_along_axis(scores, few, 1)}
    for name in ("accuracy", "f1", "precision", "recall"):
        wanted = metrics.get(name).finish(metrics.get(name).update({"y": scores}, labels))
        for outputs in (chosen, best):
            assert metrics.get(name).finish(metrics.get(name).update(outputs, labels)) == pytest.approx(wanted)
    top = metrics.get("top3")
    np.testing.assert_array_equal(top.update(best, labels), top.update({"y": scores}, labels))
    agreement = metrics.get("agreement")
    for outputs in (chosen, best):
        assert agreement.finish(agreement.update(outputs, next(iter(outputs.values())))) == 1.0
    with pytest.raises(InputError, match="its best 3 classes; this metric needs 5"):
        metrics.get("top5").update(best, labels)
    with pytest.raises(InputError, match=r"numbers of classes .*; this metric needs their scores"):
        metrics.get("log_loss").update(chosen, labels)
    with pytest.raises(InputError, match="do not fit the model's classes"):
        metrics.get("accuracy").update(chosen, labels[:20])


def test_maps_of_classes_that_the_model_chose_itself():
    random = np.random.default_rng(5)
    scores, labels = random.standard_normal((6, 4, 5, 5)), random.integers(-1, 4, (6, 5, 5))
    for name, own in (("miou", labels), ("accuracy", labels.clip(0))):
        metric = metrics.get(name)
        found = (metric.finish(Rows.of(metric.update({"y": y}, own)).values) for y in (scores, scores.argmax(1)))
        assert next(found) == pytest.approx(next(found))


def test_average_precision_at_one_overlap_is_that_of_voc():
    found, labels = boxes(np.random.default_rng(6))
    whole, half = metrics.get("average_precision"), metrics.get("average_precision_50")
    rows = half.update({"boxes": found}, labels).values
    np.testing.assert_array_equal(rows, whole.update({"boxes": found}, labels).values)
    exact = labels[:, :, [0, 1, 2, 3, 4, 4]]
    exact[..., 4] = labels[..., 4] >= 0
    assert half.finish(rows) > whole.finish(rows) + 0.1
    assert half.finish(half.update({"boxes": exact}, labels).values) == 1.0


@pytest.mark.parametrize("shape", [(40, 1), (40, 1, 1, 1)])
def test_one_probability_a_sample_is_a_class_of_two(shape):
    from sklearn.metrics import f1_score
    from sklearn.metrics import log_loss as their_loss

    random = np.random.default_rng(0)
    p, y = random.random(40).astype(np.float32), random.integers(0, 2, 40)
    outputs = {"p": p.reshape(shape)}
    np.testing.assert_array_equal(metrics.get("accuracy").update(outputs, y)[:, 0], (p > 0.5) == y)
    f1, loss = metrics.get("f1"), metrics.get("log_loss")
    assert f1.finish(f1.update(outputs, y)) == pytest.approx(f1_score(y, p > 0.5))
    assert loss.finish(loss.update(outputs, y)) == pytest.approx(their_loss(y, p), rel=1e-5)
    moved = np.clip(p + 0.2, 0, 1).reshape(shape)
    rows = metrics.get("agreement").update({"p": moved}, p.reshape(shape))
    np.testing.assert_array_equal(rows[:, 0], (moved.reshape(-1) > 0.5) == (p > 0.5))


def test_one_number_a_sample_that_is_no_probability_has_no_class():
    values = np.array([[0.2], [3.0]], np.float32)
    for name, labels in (("accuracy", np.array([0, 1])), ("agreement", values)):
        with pytest.raises(InputError, match=r"one number a sample, from 0.2 to 3; as the probability of class 1"):
            metrics.get(name).update({"p": values}, labels)


def test_token_accuracy_counts_no_padding_and_takes_batches_of_any_length():
    scores = np.zeros((2, 4, 3))
    scores[0, [0, 1, 2], [2, 1, 0]] = scores[1, [0, 1], [1, 2]] = 1
    labels = np.array([[2, 1, 1, -100, -100], [1, -100, -100, -100, -100]])
    assert value("token_accuracy", scores, labels) == pytest.approx(3 / 4)
    assert value("token_accuracy", scores, labels[:, :3]) == pytest.approx(3 / 4)
    labels[0, 4] = 1
    with pytest.raises(InputError, match="labels for more than the 4 tokens"):
        value("token_accuracy", scores, labels)
    with pytest.raises(InputError, match="label 3 is outside the model's classes, 0 to 2"):
        value("token_accuracy", scores, np.full((2, 4), 3))
    with pytest.raises(InputError, match="needs whole numbers"):
        value("token_accuracy", scores, np.zeros(2, int))
