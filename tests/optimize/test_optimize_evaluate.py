from dataclasses import replace

import numpy as np
import onnx
import pytest

from optimize import evaluate as evaluation
from optimize import metrics
from optimize.data import NAMES, Split, from_arrays
from optimize.evaluate import evaluate
from optimize.models import read_onnx
from runtime.contender import Contender
from runtime.errors import InputError, WorkError

# Sessions that need no engine: the answer is a function of the input.
SESSIONS = """
import numpy as np
from runtime.errors import EngineError

class Session:
    threads = 1

    def __init__(self, body, size):
        self.body, self.size, self.calls = body, size, 0

    def run(self, feeds, out=None):
        x = feeds["x"]
        self.calls += 1
        if self.size and len(x) != self.size:
            raise EngineError(f"takes {self.size} samples, got {len(x)}")
        return {"output": eval(self.body, {"x": x, "np": np, "calls": self.calls, "stop": stop})}

def stop():
    raise RuntimeError("stopped on the way")

def open(body, size=None):
    return Session(body, size)
"""


@pytest.fixture(autouse=True)
def _sessions(tmp_path, monkeypatch):
    (tmp_path / "made_up_sessions.py").write_text(SESSIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def contender(name, body="x", size=None):
    return Contender(name, "made_up_sessions:open", {"body": body, "size": size})


def scores(samples=25, classes=4, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((samples, classes)).astype(np.float32), random.integers(0, classes, samples)


def split(x, y=None):
    content = {"x": x} if y is None else {"x": x, "y": y}
    return from_arrays(dict.fromkeys(NAMES, content), "here").test


ACCURACY = metrics.get("accuracy")


def test_statistics_are_in_the_order_of_the_data_for_every_contender():
    x, y = scores()
    found = evaluate([contender("original"), contender("turned", "-x")], split(x, y), ACCURACY, 7)
    np.testing.assert_array_equal(found.statistics["original"].values[:, 0], x.argmax(1) == y)
    np.testing.assert_array_equal(found.statistics["turned"].values[:, 0], x.argmin(1) == y)
    assert not found.failed and not found.wrong


@pytest.mark.parametrize("most", [1, 2, 9])
def test_progress_counts_samples_turn_by_turn(monkeypatch, most):
    monkeypatch.setattr(evaluation, "TURN_MOST", most)
    seen = []
    evaluate([contender("original")], split(*scores()), ACCURACY, 10, progress=seen.append)
    assert seen == ([10, 20, 25] if most == 1 else [10, 25])


def test_a_contender_that_fails_on_the_way_is_dropped_and_the_others_go_on():
    x, y = scores()
    rows = [contender("original"), contender("late", "x if calls < 3 else stop()"), contender("good", "x * 2")]
    found = evaluate(rows, split(x, y), ACCURACY, 7)
    assert sorted(found.statistics) == ["good", "original"] and len(found.statistics["good"]) == 25
    assert list(found.failed) == ["late"] and "stopped on the way" in found.failed["late"]


def test_a_contender_that_cannot_be_opened_is_dropped():
    rows = [contender("original"), Contender("gone", "no_such_module:open", {})]
    found = evaluate(rows, split(*scores()), ACCURACY, 25)
    assert "no_such_module" in found.failed["gone"] and list(found.statistics) == ["original"]


def test_no_process_is_left_where_it_is_interrupted_while_they_start(monkeypatch):
    alive, true = [], evaluation.Worker.start

    def start(one, *more):
        if one.name == "late":
            raise KeyboardInterrupt
        alive.append(true(one, *more))
        return alive[-1]

    monkeypatch.setattr(evaluation.Worker, "start", start)
    with pytest.raises(KeyboardInterrupt):
        evaluate([contender(name) for name in ("original", "late", "last")], split(*scores()), ACCURACY, 7)
    assert alive and all(worker._process.returncode is not None for worker in alive)


def test_an_onnx_file_of_another_input_size_is_dropped(tiny_onnx, tmp_path, tiny_data):
    proto = onnx.load(tiny_onnx)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 9
    proto.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 9
    onnx.save(proto, tmp_path / "other.onnx")

    def engine(name, path):
        model = read_onnx(path)
        plain = {"engine": "onnxruntime", "files": {"model": str(path)}, "specs": model.specs.to_json(), "options": {}}
        return Contender(name, "runtime.worker:open_engine", plain)

    images, labels = tiny_data
    data = from_arrays({name: {"image": images, "y": labels} for name in NAMES}, "here").test
    rows = [engine("original", tiny_onnx), engine("other", tmp_path / "other.onnx"), engine("same", tiny_onnx)]
    found = evaluate(rows, data, ACCURACY, 32)
    assert list(found.failed) == ["other"] and "ONNX Runtime failed" in found.failed["other"]
    np.testing.assert_array_equal(found.statistics["same"].values, found.statistics["original"].values)


def test_a_contender_with_fewer_classes_than_the_labels_is_dropped():
    x, y = scores()
    found = evaluate([contender("original"), contender("short", "x[:, :2]")], split(x, y), ACCURACY, 7)
    assert list(found.failed) == ["short"] and "outside the model's classes" in found.failed["short"]
    assert list(found.statistics) == ["original"]


def test_the_failure_of_the_original_is_an_error():
    with pytest.raises(WorkError, match="stopped on the way"):
        evaluate(
            [contender("original", "x if calls < 3 else stop()"), contender("good")], split(*scores()), ACCURACY, 7
        )


@pytest.mark.parametrize("bad", ["np.nan", "np.inf"])
def test_nan_where_the_original_has_none_is_wrong(bad):
    body = f"np.where((np.arange(len(x)) == 2)[:, None] & (calls == 2), {bad}, x)"
    found = evaluate([contender("original"), contender("odd", body)], split(*scores()), ACCURACY, 7)
    assert list(found.wrong) == ["odd"] and "'output' has NaN or infinity" in found.wrong["odd"]
    assert list(found.statistics) == ["original"] and not found.failed


def test_infinity_where_the_original_has_it_too_is_not_wrong():
    body = "np.where(np.arange(4) == 3, -np.inf, x)"
    found = evaluate([contender("original", body), contender("same", body)], split(*scores()), ACCURACY, 7)
    assert not found.wrong and sorted(found.statistics) == ["original", "same"]


def test_a_fixed_batch_fills_up_the_tail_and_drops_the_surplus():
    x, y = scores(25)
    rows = [contender("original", size=8), contender("turned", "-x", size=8)]
    found = evaluate(rows, split(x, y), ACCURACY, 8, fixed=True)
    assert len(found.statistics["original"]) == len(found.statistics["turned"]) == 25
    np.testing.assert_array_equal(found.statistics["turned"].values[:, 0], x.argmin(1) == y)


def test_a_fixed_batch_larger_than_the_data_is_filled_up():
    x, y = scores(3)
    found = evaluate([contender("original", size=8)], split(x, y), ACCURACY, 8, fixed=True)
    np.testing.assert_array_equal(found.statistics["original"].values[:, 0], x.argmax(1) == y)


def test_without_a_fixed_batch_the_tail_is_shorter():
    with pytest.raises(WorkError, match="takes 8 samples, got 1"):
        evaluate([contender("original", size=8)], split(*scores(25)), ACCURACY, 8)


def test_without_labels_the_answers_of_the_original_stand_for_them():
    x, y = scores()
    rows = [contender("original"), contender("turned", "-x"), contender("same", "x + 1")]
    found = evaluate(rows, split(x, y), metrics.get("agreement"), 7)
    assert found.statistics["original"].values.all() and found.statistics["same"].values.all()
    assert not found.statistics["turned"].values.any()


def test_without_labels_an_error_is_measured_against_the_original():
    rows = [contender("original"), contender("moved", "x + 0.5")]
    distance = replace(metrics.get("mse"), own=lambda outputs, feeds: metrics.first(outputs))
    found = evaluate(rows, split(scores()[0]), distance, 7)
    assert not found.statistics["original"].values.any()
    np.testing.assert_allclose(found.statistics["moved"].values, 0.25, rtol=1e-5)


def test_labels_that_are_missing_for_some_samples_are_named():
    x, y = scores(8)
    half = Split("test", lambda: [({"x": x[:4]}, y[:4]), ({"x": x[4:]}, None)])
    with pytest.raises(InputError, match="split 'test' has no labels for some of its samples"):
        evaluate([contender("original")], half, ACCURACY, 4)


def test_labels_that_do_not_fit_the_metric_are_an_error_of_the_input():
    x, y = scores()
    with pytest.raises(InputError, match="label 9 is outside"):
        evaluate([contender("original"), contender("good")], split(x, np.where(y == 0, 9, y)), ACCURACY, 7)


def counts(tmp_path, body):
    """A metric of the user's that gives what the body says."""
    (tmp_path / "own.py").write_text(f"import numpy as np\ndef own(output, labels):\n    return {body}\n")
    return metrics.get(f"{tmp_path / 'own.py'}:own", "higher")


BOXES = "np.ones((len(x), calls % 3, 6), np.float32) * x[:, :1, None]"  # none, one or two boxes a picture, by the call


@pytest.mark.parametrize("other", [BOXES, BOXES.replace("calls % 3", "2"), BOXES.replace("calls % 3", "0")])
def test_outputs_whose_size_varies_are_evaluated(tmp_path, other):
    x, y = scores()
    metric = counts(tmp_path, "np.full(len(labels), float(output.shape[1]))")
    found = evaluate([contender("original", BOXES), contender("other", other)], split(x, y), metric, 5)
    assert not found.failed and not found.wrong
    assert found.statistics["original"].values[:, 0].tolist() == np.repeat([1.0, 2, 0, 1, 2], 5).tolist()
    assert len(found.statistics["other"]) == 25


def test_boxes_of_one_picture_without_a_batch_axis_are_left_whole(tmp_path):
    x, y = scores(6)
    metric = counts(tmp_path, "np.array([float(len(output))])")
    body = "np.ones((calls, 6), np.float32)"
    found = evaluate([contender("original", body, size=1)], split(x, y), metric, 1, fixed=True)
    assert found.statistics["original"].values[:, 0].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_metric_of_all_samples_at_once_says_that_it_needs_one_size(tmp_path):
    metric = counts(tmp_path, "float(output.mean())")
    with pytest.raises(InputError, match=r"one number for all samples, and 'output' is \(5, 2, 6\) after \(5, 1, 6\)"):
        evaluate([contender("original", BOXES)], split(*scores()), metric, 5)


def test_samples_of_several_lengths_are_evaluated_in_their_order():
    random = np.random.default_rng(0)
    lengths = [3, 3, 5, 5, 5, 4, 3]
    parts = [(random.standard_normal((2, n)).astype(np.float32), random.integers(0, 3, 2)) for n in lengths]
    data = Split("test", lambda: [({"x": x}, y) for x, y in parts])
    assert [len(y) for _, y in data.batches(4)] == [4, 4, 2, 2, 2]
    found = evaluate([contender("original"), contender("turned", "-x")], data, ACCURACY, 4)
    wanted = np.concatenate([x.argmax(1) == y for x, y in parts])
    np.testing.assert_array_equal(found.statistics["original"].values[:, 0], wanted)
    assert len(found.statistics["turned"]) == 14


def test_a_hopeless_contender_is_asked_no_further_and_keeps_what_it_answered(monkeypatch):
    monkeypatch.setattr(evaluation, "FIRST_LOOK", 8)
    looks = []

    def hopeless(original, rows):
        looks.append((len(original), len(rows)))
        return "too bad" if rows.values.mean() < original.values.mean() else ""

    x, y = scores(samples=40)
    y = x.argmax(1)  # the original is always right
    three = [contender("original"), contender("bad", "-x"), contender("good", "2 * x")]
    found = evaluate(three, split(x, y), ACCURACY, 4, hopeless=hopeless)
    assert found.given_up == {"bad": "too bad"} and not found.failed
    assert {name: len(rows) for name, rows in found.statistics.items()} == {"original": 40, "bad": 8, "good": 40}
    assert looks == [(8, 8), (8, 8), (16, 16), (32, 32)]


def test_an_original_that_is_known_is_not_asked_again():
    x, y = scores()
    whole = evaluate([contender("original"), contender("turned", "-x")], split(x, y), ACCURACY, 7)
    assert whole.sound
    known = ("original", whole.statistics["original"])
    rest = [contender("late", "x if calls < 3 else stop()"), contender("turned", "-x"), contender("odd", "x + np.inf")]
    found = evaluate(rest, split(x, y), ACCURACY, 7, known=known)
    assert list(found.failed) == ["late"] and list(found.wrong) == ["odd"]
    for name, rows in whole.statistics.items():
        np.testing.assert_array_equal(found.statistics[name].values, rows.values)
    looks = []
    evaluate(rest[1:2], split(x, y), ACCURACY, 1, known=known, hopeless=lambda *rows: looks.append(rows) or "")
    assert not looks  # 25 samples are no first look


@pytest.mark.parametrize(("body", "metric"), [("x + np.nan", "accuracy"), ("x", "agreement")])
def test_an_original_that_gives_nan_or_is_what_others_are_held_against_is_asked_each_time(body, metric):
    found = evaluate([contender("original", body)], split(*scores()), metrics.get(metric), 7)
    assert not found.sound
