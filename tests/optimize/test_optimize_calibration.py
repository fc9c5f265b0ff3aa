import numpy as np
import pytest

from optimize.calibration import check
from optimize.data import Splits, examine, from_arrays, prepare
from optimize.data._profile import Profile, Spread, colour_axis
from runtime.errors import InputError
from runtime.tensors import TensorSpec

IMAGE = (TensorSpec("image", "float32", ("batch", 3, 24, 24)),)


def pictures(samples, seed, shape=(3, 24, 24)):
    """Smooth ones, each colour about a mean of its own."""
    random = np.random.default_rng(seed)
    coarse = random.standard_normal((samples, shape[0], 4, 4))
    smooth = np.kron(coarse, np.ones((1, 1, shape[1] // 4, shape[2] // 4)))
    return (smooth + np.array([2.0, 0.0, -2.0])[:, None, None] + 0.1 * random.standard_normal(smooth.shape)).astype(
        np.float32
    )


def facts(calibrate, validate=None, test=None):
    parts = {
        "calibrate": calibrate,
        "validate": pictures(80, 1) if validate is None else validate,
        "test": pictures(80, 2) if test is None else test,
    }
    inputs = (TensorSpec("image", "float32", ("batch", *calibrate.shape[1:])),)
    splits = prepare(from_arrays({name: {"image": value} for name, value in parts.items()}, "here"), inputs)
    return {split.name: examine(split, inputs) for split in splits}


def test_data_of_one_kind_is_passed_without_a_word():
    assert check(facts(pictures(80, 0))) == []


def test_what_is_no_picture_is_no_matter():
    rows = [np.random.default_rng(seed).standard_normal((80, 12)).astype(np.float32) for seed in range(3)]
    assert check(facts(*rows)) == []
    words = [np.random.default_rng(seed).integers(0, 99, (80, 16)) for seed in range(3)]
    inputs = (TensorSpec("ids", "int64", ("batch", 16)),)
    arrays = {name: {"ids": value} for name, value in zip(("calibrate", "validate", "test"), words, strict=True)}
    splits: Splits = from_arrays(arrays, "here")
    assert check({split.name: examine(split, inputs) for split in prepare(splits, inputs)}) == []


def test_random_data_is_refused():
    noise = np.random.default_rng(0).standard_normal((80, 3, 24, 24)).astype(np.float32)
    with pytest.raises(InputError, match=r"looks random.*Calibrate on real samples.*check = false"):
        check(facts(noise))
    assert check(facts(noise, noise[::-1].copy() + 1, noise + 2)) == [], "where all is noise, nothing can be told"


def test_constant_data_is_refused():
    with pytest.raises(InputError, match=r"constant: all values of 'image' are 0"):
        check(facts(np.zeros((80, 3, 24, 24), np.float32)))


@pytest.mark.parametrize("factor", [255, 1 / 255])
def test_another_scale_is_refused(factor):
    with pytest.raises(InputError, match=r"scaled differently: 'image' is from .* in the one and from .* in the other"):
        check(facts(pictures(80, 0) * np.float32(factor)))


def test_another_mean_is_said():
    (note,) = check(facts(pictures(80, 0) + 5))
    assert "normalized differently" in note


def test_reshaped_instead_of_transposed_is_said():
    interleaved = pictures(80, 0).transpose(0, 2, 3, 1).copy().reshape(80, 3, 24, 24)
    notes = check(facts(interleaved))
    assert any("reshaped where it should have been transposed" in note for note in notes)


def test_another_order_of_colours_is_said():
    (note,) = check(facts(pictures(80, 0)[:, ::-1].copy()))
    assert "colours of 'image' seem to be in another order" in note


def test_copies_leaks_and_too_few_are_counted():
    here, there = pictures(80, 0), pictures(80, 2)
    here[1:4], there[:7] = here[0], here[4:11]
    assert check(facts(here, test=there)) == [
        "3 of the 80 samples of calibrate are copies of others in it",
        "7 of the 80 samples of test are in calibrate too: its figures are not of data that no step has seen",
    ]
    (note,) = check(facts(pictures(1, 0)))
    assert note.startswith("calibrate has 1 sample: the ranges of int8 that so few show may be too narrow")


def test_a_profile_over_batches_is_that_of_the_whole():
    whole, parts = Spread(), Spread()
    images = pictures(50, 3)
    whole.update(images)
    for start in range(0, 50, 7):
        parts.update(images[start : start + 7])
    assert parts.mean == pytest.approx(images.mean(), abs=1e-5) == pytest.approx(whole.mean)
    assert parts.deviation == pytest.approx(images.std(), rel=1e-4)
    assert parts.colours() == pytest.approx(images.mean((0, 2, 3)), rel=1e-4)
    assert parts.related() == pytest.approx(whole.related())
    profile = Profile()
    profile.update({"image": images})
    assert len(set(profile.prints)) == 50 and set(profile.spreads) == {"image"}


@pytest.mark.parametrize(
    "shape, axis",
    [((1, 3, 32, 32), 1), ((1, 32, 32, 3), 3), ((1, 1, 8, 8), 1), ((1, 3, 3, 3), None), ((1, 64, 8, 8), None),
     ((1, 5), None)],
)  # fmt: skip
def test_the_axis_of_colours(shape, axis):
    assert colour_axis(shape) == axis


def test_a_run_is_refused_before_any_work_and_check_false_lets_it_pass(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    from optimize.progress import Progress
    from optimize.recipe import from_table
    from optimize.subject import prepare as prepared

    nodes = [helper.make_node("ReduceMean", ["image"], ["y"], axes=[2, 3], keepdims=0)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("image", ["batch", 3, 24, 24]), ("y", ["batch", 3]))
    ]
    graph = helper.make_graph(nodes, "mean", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    noise = np.random.default_rng(0).standard_normal((40, 3, 24, 24)).astype(np.float32)
    parts = {"calibrate": noise, "validate": pictures(40, 1), "test": pictures(40, 2)}
    np.savez(tmp_path / "data.npz", **{f"image_{name}": value for name, value in parts.items()})
    table = {"model": {"path": "m.onnx"}, "data": {"path": "data.npz"}, "targets": {"onnxruntime": {}}}
    with pytest.raises(InputError, match="looks random"):
        prepared(from_table(table, tmp_path), Progress(1, silent=True), None)
    table["data"] = {"path": "data.npz", "check": False}
    assert prepared(from_table(table, tmp_path), Progress(1, silent=True), None).notes
