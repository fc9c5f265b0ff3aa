import numpy as np
import onnx
import pytest

from optimize.models import read_onnx
from optimize.verify import Interpreted, batch_sizes, check_equal, judge, signal_to_noise, sized_feeds
from runtime.errors import StepError
from runtime.tensors import TensorSpec


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        ({}, (1, 3, 16)),
        ({"batch": {"min": 1, "best": 1, "max": 4}}, (1, 3, 4)),
        ({"batch": {"min": 1, "best": 1, "max": 2}}, (1, 2)),
        ({"batch": {"min": 1, "best": 1, "max": 1}}, (1,)),
        ({"batch": {"min": 5, "best": 8, "max": 16}}, (5, 6, 16)),
        ({"batch": {"min": 8, "best": 8, "max": 8}}, (8,)),
    ],
)
def test_the_batches_to_verify_stay_within_the_limits(axes, sizes):
    assert batch_sizes((TensorSpec("x", "float32", ("batch", 3)),), axes) == sizes


def test_a_fixed_batch_is_the_only_one():
    assert batch_sizes((TensorSpec("x", "float32", (6, 3)),), {}) == (6,)
    assert batch_sizes((TensorSpec("x", "float32", ()),), {}) == (1,)


def test_feeds_repeat_the_samples_where_there_are_fewer(make_context):
    context = make_context({"b": np.arange(3.0), "a": np.arange(6.0).reshape(3, 2), "y": np.arange(3)})
    inputs = (TensorSpec("a", "float64", ("n", 2)), TensorSpec("b", "float64", ("n",)))
    found = sized_feeds(context.calibrate, inputs, 5)
    assert list(found) == ["a", "b"]
    assert found["b"].tolist() == [0, 1, 2, 0, 1] and found["a"][:, 0].tolist() == [0, 2, 4, 0, 2]


class Other:
    """A session that is off by a share, in one output, at one batch size."""

    def __init__(self, model, share, batch):
        self.session, self.share, self.batch = judge(model), share, batch

    def run(self, feeds):
        found = self.session.run(feeds)
        factor = 1 + self.share * (len(feeds["image"]) == self.batch)
        return {name: value * factor for name, value in found.items()}


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_a_difference_is_named_with_its_output_and_batch(tiny_onnx, image_context, batch):
    model = read_onnx(tiny_onnx)
    with pytest.raises(StepError, match=rf"at batch {batch} the output 'output' differs by 0\.0099.*more than 0\.001"):
        check_equal(model, Other(model, 0.01, batch), image_context(), 1e-3)
    assert check_equal(model, Other(model, 0.01, batch), image_context(), 0.1) == pytest.approx(0.01 / 1.01, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_a_difference(tiny_onnx, image_context, bad):
    model = read_onnx(tiny_onnx)
    with pytest.raises(StepError, match="differs by inf"):
        check_equal(model, Other(model, bad, 3), image_context(), 1e9)


def test_signal_to_noise_in_decibels():
    wanted = {"a": np.full(10, 10.0), "b": np.full(10, 10.0)}
    assert signal_to_noise({"a": wanted["a"] * 1.1, "b": wanted["b"] * 1.01}, wanted) == pytest.approx(20)
    assert signal_to_noise(wanted, wanted) == np.inf


def test_what_a_file_answers_is_asked_once_of_the_last_two(tiny_onnx, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("optimize.verify.judge", lambda model: asked.append(model.path) or judge(model))
    feeds = {"image": np.ones((2, 3, 8, 8), np.float32)}
    files = [tiny_onnx, *(tmp_path / f"{name}.onnx" for name in "bc")]
    for number, file in enumerate(files[1:]):  # the same graph, other bytes
        proto = onnx.load(tiny_onnx)
        proto.doc_string = f"copy {number}"
        onnx.save(proto, file)
    one, two, three = (read_onnx(file) for file in files)
    found = Interpreted(lambda model: {spec.name: feeds["image"][:, : spec.shape[1]] for spec in model.specs.inputs})
    for model in (one, one, two, one, three, one):
        assert all(
            np.array_equal(value, judge(model).run(found._feeds(model))[key]) for key, value in found(model).items()
        )
    assert asked == [files[0], files[1], files[2]]
    found(two)  # the one that was asked for longest ago
    assert asked == [files[0], files[1], files[2], files[1]]
    onnx.save(onnx.load(files[2]), files[1])  # another file of the same name
    found(two)
    assert len(asked) == 5
