"""Raw data on its way to a model: which columns are read by what, and what becomes of samples that cannot be read."""

import numpy as np
import pytest

from optimize import preprocessing, subject
from optimize.data import NAMES, from_arrays
from optimize.progress import Progress
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import TensorSpec

Image = pytest.importorskip("PIL.Image", reason="pip install 'edge-optimize[image]'")

INPUTS = (TensorSpec("x", "float32", ("n", 3, 8, 8)),)


def folder(root, good=8, bad=0):
    """Pictures to calibrate, validate and test with, and some in each that are none."""
    for split in ("train", "val", "test"):
        for i in range(good + bad):
            path = root / split / ("cat", "dog")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (9, 9), (i, 0, 0)).save(path)
            if i >= good:
                path.write_bytes(path.read_bytes()[:40])
    return str(root)


def read_data(place, damaged=0.05, pre=(), inputs=INPUTS):
    return subject.read_data(place, None, None, None, inputs, Progress(1, silent=True), pre, damaged)[1]


def test_damaged_files_are_left_out_counted_and_named(tmp_path):
    material = read_data(folder(tmp_path, 8, 2), damaged=0.2)
    assert [facts.samples for facts in material.facts.values()] == [8, 8, 8]
    (note,) = [note for note in material.notes if "cannot be read" in note]
    assert "6 of 30 samples cannot be read, the first: " in note
    assert note.count("cannot be read as a picture") == 5
    assert note.endswith("They were left out")
    for split in material.splits:
        feeds, labels = split.take(100)
        assert len(feeds["x"]) == len(labels) == 8
        np.testing.assert_allclose(feeds["x"][:, 0, 0, 0] * 255, [0, 2, 4, 6, 1, 3, 5, 7], atol=1e-4)
        np.testing.assert_array_equal(labels, [0, 0, 0, 0, 1, 1, 1, 1])
    assert sum(len(feeds["x"]) for feeds, _ in material.splits.whole().batches(4)) == 24  # each pass leaves them out


def test_too_many_damaged_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"6 of 30 samples cannot be read.*At most 5% may be left out: mend them"):
        read_data(folder(tmp_path, 8, 2))


def test_data_of_which_nothing_can_be_read_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"no sample of .* can be read; the first: .*\.png cannot be read as a picture"
    ):
        read_data(folder(tmp_path, 0, 4), damaged=1.0)


def test_samples_that_cannot_be_read_for_the_same_reason_are_counted_each(tmp_path):
    pictures = np.empty(40, object)
    for i in range(40):
        pictures[i] = b"" if i % 4 == 0 else _png(i)
    splits = from_arrays({name: {"image": pictures, "y": np.arange(40)} for name in NAMES}, "here")
    read = preprocessing.read(splits, (), INPUTS)
    read.losses.lost = 0
    kept = [len(split.take(100)[1]) for split in read.splits]
    assert kept == [30, 30, 30]
    assert len(read.losses.reasons) == 1
    with pytest.raises(InputError, match=r"30 of 120 samples cannot be read"):
        read.losses.check(90, 0.05)


def _png(level):
    import io

    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (level, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def test_what_a_call_takes_is_said(tmp_path):
    notes = read_data(folder(tmp_path)).notes
    assert any("a call with raw samples (image) takes " in note for note in notes)


def test_columns_are_told_by_their_names(tmp_path):
    read = preprocessing.read(
        _columns(image=[_png(1)], extra=[1.0]), (), (*INPUTS, TensorSpec("extra", "float32", ("n",)))
    )
    assert [(spec.kind, spec.columns) for spec in read.specs] == [("image", ("image",))]
    feeds, _ = read.splits.calibrate.take(3)
    assert {name: value.shape for name, value in feeds.items()} == {"x": (1, 3, 8, 8), "extra": (1,)}
    assert read.notes[0].startswith("no [[pre]] says what becomes of image: taken as image with size = [8, 8], colours")
    asked = PreSpec("image", (), {"size": [8, 8]}, {})
    assert not preprocessing.read(_columns(photo=[_png(3)]), [asked], INPUTS).notes


def test_columns_that_inputs_take_are_left_alone():
    numbers = _columns(x=[1.0, 2.0])
    assert preprocessing.read(numbers, (), (TensorSpec("x", "float32", ("n",)),)).splits is numbers
    words = _columns(word=["a", "b"])
    assert not preprocessing.read(words, (), (TensorSpec("word", "str", ("n",)),)).specs


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(InputError, match=r'the data is text.*\[\[pre\]\] kind = "text", tokenizer'):
        preprocessing.read(_columns(sentence=["a"]), (), (TensorSpec("input_ids", "int64", ("n", "t")),))


def test_a_kind_takes_the_columns_that_are_left_or_named():
    spec = PreSpec("image", (), {"size": [8, 8]}, {})
    found = preprocessing.read(_columns(photo=[_png(3)]), [spec], INPUTS)
    assert found.specs[0].columns == ("photo",)
    named = PreSpec("image", ("b",), {"size": [8, 8]}, {})
    found = preprocessing.read(_columns(a=[_png(3)], b=[_png(9)]), [named], INPUTS)
    np.testing.assert_allclose(found.splits.test.take(1)[0]["x"][0, 0], 9 / 255, rtol=1e-5)
    with pytest.raises(InputError, match=r"reads 1 columns, and the data has a, b: name them, \[\[pre\]\] columns"):
        preprocessing.read(_columns(a=[_png(3)], b=[_png(9)]), [spec], INPUTS)
    lacking = PreSpec("image", ("c",), {}, {})
    with pytest.raises(InputError, match=r"the data has no column 'c', which \[\[pre\]\] names; it has a"):
        preprocessing.read(_columns(a=[_png(3)]), [lacking], INPUTS)


def test_a_table_of_boxes_without_a_picture_is_refused():
    texts = PreSpec("audio", ("a",), {}, {})
    splits = _columns(a=[np.zeros(9, np.float32)], y=[np.zeros((1, 5))])
    pytest.importorskip("soundfile")
    read = preprocessing.read(splits, [texts], (TensorSpec("x", "float32", ("n", "t")),))
    with pytest.raises(InputError, match=r"is empty"):
        read.splits.calibrate.take(1)
    assert "the labels are boxes, and nothing is there they could be of" in next(iter(read.losses.reasons))


def _columns(**columns):
    """The same rows in each split."""
    arrays = {}
    for name, values in columns.items():
        arrays[name] = np.empty(len(values), object)
        arrays[name][:] = values
        if isinstance(values[0], float):
            arrays[name] = np.array(values, np.float32)
    return from_arrays(dict.fromkeys(NAMES, arrays), "here")
