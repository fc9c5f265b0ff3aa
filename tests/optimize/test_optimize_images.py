"""Folders of pictures as data: classes, splits, masks."""

import numpy as np
import pytest

from optimize import data, preprocessing, subject
from optimize.progress import Progress
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import TensorSpec

Image = pytest.importorskip("PIL.Image", reason="pip install 'edge-optimize[image]'")

INPUTS = (TensorSpec("x", "float32", ("n", 3, 8, 8)),)


def write(path, colour=(0, 0, 0), size=(10, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def classes(root, names=("cat", "dog"), count=6):
    for number, name in enumerate(names):
        for i in range(count):
            write(root / name / f"{i}.png", (100 * number, 0, 0))


def names(feeds):
    return [place.rsplit("/", 1)[1] for place in feeds["image"]]


def test_a_class_a_folder(tmp_path):
    classes(tmp_path, ("dog", "cat", "eel"))
    write(tmp_path / "eel" / "deep" / "7.JPG", (200, 0, 0))
    (tmp_path / "eel" / "notes.txt").write_text("no picture")
    write(tmp_path / ".trash" / "0.png")
    write(tmp_path / "cat" / ".0.png")
    assert data.detect(str(tmp_path)) == "images"
    splits = data.load("images", str(tmp_path))
    assert splits.divided
    feeds, labels = splits.whole().take(100)
    assert len(labels) == 19
    for place, label in zip(feeds["image"], labels, strict=True):
        assert ("cat", "dog", "eel")[label] in place
        assert "/." not in place.removeprefix(str(tmp_path))
    assert any("in the order of their folders' names: cat, dog, eel" in note for note in splits.notes)


def test_pictures_without_classes_have_no_labels(tmp_path):
    for i in range(6):
        write(tmp_path / f"{i}.png")
    feeds, labels = data.load("images", str(tmp_path)).whole().take(100)
    assert (len(feeds["image"]), labels) == (6, None)


def test_folders_of_splits(tmp_path):
    for name, count in (("Train", 6), ("valid", 3), ("test", 2)):
        classes(tmp_path / name, count=count)
    splits = data.load("images", str(tmp_path))
    assert not splits.divided
    assert [len(split.take(100)[1]) for split in splits] == [12, 6, 4]
    assert all(f"/{name}/" in place for split, name in zip(splits, ("Train", "valid", "test"), strict=True)
               for place in split.take(100)[0]["image"])  # fmt: skip


@pytest.mark.parametrize(("there", "lacking"), [("val", "test"), ("test", "validate")])
def test_one_split_to_judge_by_is_halved(there, lacking, tmp_path):
    classes(tmp_path / "train")
    classes(tmp_path / there, count=4)
    splits = data.load("images", str(tmp_path))
    halves = [set(split.take(100)[0]["image"]) for split in (splits.validate, splits.test)]
    assert [len(half) for half in halves] == [4, 4]
    assert not halves[0] & halves[1]
    assert all(f"/{there}/" in place for half in halves for place in half)
    assert any(f"has no {lacking}: " in note and "was halved at random" in note for note in splits.notes)
    again = data.load("images", str(tmp_path))
    assert [set(split.take(100)[0]["image"]) for split in (again.validate, again.test)] == halves


def test_folders_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such folder"):
        data.load("images", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"has no pictures \(\.jpg"):
        data.load("images", str(tmp_path))
    classes(tmp_path / "train")
    with pytest.raises(InputError, match=r"it takes one for each of calibrate, validate, test"):
        data.load("images", str(tmp_path))
    classes(tmp_path / "val", ("cat", "emu"))
    with pytest.raises(InputError, match=r"has the class 'emu', which calibrate has not: cat, dog"):
        data.load("images", str(tmp_path))
    write(tmp_path / "train" / "lone.png")
    with pytest.raises(InputError, match=r"has folders of classes, and beside them lone\.png, which is in none"):
        data.load("images", str(tmp_path))
    classes(tmp_path / "more")
    with pytest.raises(InputError, match=r"has the folders more, train, val: it takes"):
        data.load("images", str(tmp_path))


def test_a_folder_with_hidden_pictures_alone_is_no_data(tmp_path):
    write(tmp_path / ".thumbnails" / "0.png")
    with pytest.raises(InputError, match=r"is not data that is known here"):
        data.detect(str(tmp_path))


# --- masks


def masked(root, count=6, size=(10, 6)):
    """Pictures whose left half is red; masks have 1 there, and 255 in the last row. Every second has a palette."""
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    width, height = size
    for i in range(count):
        mask = np.zeros((height, width), np.uint8)
        mask[:, : width // 2] = 1
        pixels = random.integers(0, 50, (height, width, 3), np.uint8) + (mask * 200)[:, :, None] * np.uint8([1, 0, 0])
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        mask[-1] = 255
        picture = Image.fromarray(mask)
        if i % 2:
            picture.putpalette([7, 8, 9] * 256)
        picture.save(root / "masks" / f"{i}.png")


def test_masks_are_labels_and_fitted_as_their_pictures(tmp_path):
    masked(tmp_path)
    with Image.open(tmp_path / "masks" / "1.png") as mask:
        assert mask.mode == "P"
    splits = data.load("images", str(tmp_path))
    for table in ({"size": [3, 5]}, {"size": [6, 6], "fit": "crop"}, {"size": [10, 10], "fit": "pad"}, {}):
        spec = PreSpec("image", ("image",), {"filter": "nearest", **table}, {})
        inputs = (TensorSpec("x", "float32", ("n", 3, "h", "w")),)
        feeds, labels = preprocessing.read(splits, [spec], inputs).splits.whole().take(100)
        assert labels.dtype == np.int64
        assert labels.shape == (6, *feeds["x"].shape[2:])
        counted = labels != 255
        np.testing.assert_array_equal(feeds["x"][:, 0][counted] > 0.5, labels[counted] == 1)
        around = (feeds["x"] == 0).all(1)
        if table.get("fit") == "pad":
            assert (labels[:, :2] == 255).all()
            assert around[:, :2].all()


def test_maps_of_classes_are_judged_by_miou(tmp_path):
    masked(tmp_path)
    spec = PreSpec("image", (), {"size": [6, 10]}, {})
    inputs = (TensorSpec("x", "float32", ("n", 3, 6, 10)),)
    _, material = subject.read_data(str(tmp_path), None, None, None, inputs, Progress(1, silent=True), [spec])
    assert material.metric.name == "miou"
    assert any("'miou' was taken, for maps of classes" in note for note in material.notes)
    assert material.facts["test"].labels.tolist() == [0, 1]  # 255 is no class
    feeds, labels = material.splits.validate.take(10)
    scores = np.stack([1 - feeds["x"][:, 0], feeds["x"][:, 0]], 1)
    assert material.metric.finish(material.metric.update({"o": scores}, labels)) == 1


def test_whole_numbers_that_are_no_maps_are_judged_by_accuracy(tmp_path):
    x, y = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32), np.arange(40) % 2
    for shape in ((40,), (40, 1), (40, 1, 1)):
        np.savez(tmp_path / "d.npz", x=x, y=y.reshape(shape))
        inputs = (TensorSpec("x", "float32", ("n", 4)),)
        _, material = subject.read_data(str(tmp_path / "d.npz"), None, None, None, inputs, Progress(1, silent=True))
        assert material.metric.name == "accuracy"


def test_masks_that_cannot_be_are_refused(tmp_path):
    masked(tmp_path)
    write(tmp_path / "masks" / "0.png")
    Image.new("L", (10, 7)).save(tmp_path / "masks" / "1.png")
    read = preprocessing.read(data.load("images", str(tmp_path)), (), INPUTS)
    assert len(read.splits.whole().take(10)[1]) == 4
    said = "; ".join(read.losses.reasons)
    assert "masks/0.png has colours (RGB); a mask has a class number a pixel" in said
    assert "masks/1.png is (10, 7), and its picture " in said
    (tmp_path / "masks" / "5.png").unlink()
    with pytest.raises(InputError, match=r"lacks the masks of 1 pictures, the first of 5\.png"):
        data.load("images", str(tmp_path))
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"images has no pictures"):
        data.load("images", str(tmp_path))


def test_masks_of_several_sizes_need_a_size(tmp_path):
    masked(tmp_path / "a")
    masked(tmp_path / "b", size=(8, 8))
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for place in "ab":
            for path in (tmp_path / place / folder).iterdir():
                path.rename(tmp_path / folder / f"{place}{path.name}")
    (tmp_path / "a" / "images").rmdir()
    inputs = (TensorSpec("x", "float32", ("n", 3, "h", "w")),)
    read = preprocessing.read(data.load("images", str(tmp_path)), (), inputs)
    with pytest.raises(InputError, match=r"the pictures have 2 sizes, .* give a size to fit to"):
        read.splits.whole().take(100)
