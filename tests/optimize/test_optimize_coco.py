"""Pictures with boxes, in the forms that COCO's annotations come in."""

import json

import numpy as np
import pytest

from optimize import data, metrics, preprocessing, subject
from optimize.progress import Progress
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import TensorSpec

Image = pytest.importorskip("PIL.Image", reason="pip install 'edge-optimize[image]'")

INPUTS = (TensorSpec("image", "float32", ("n", 3, 20, 20)),)
WIDTH, HEIGHT = 40, 30


def annotations(names, **changes):
    """Picture i has i boxes, of the categories 7 and 3 by turns."""
    boxes = [
        {"image_id": i, "category_id": (7, 3)[k % 2], "bbox": [4 * k, 3 * k, 8, 6], "iscrowd": 0, "area": 48}
        for i in range(len(names)) for k in range(i)
    ]  # fmt: skip
    found = {
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}], "annotations": boxes,
    }  # fmt: skip
    return {**found, **changes}


def pictures(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * i, 0, 0)).save(folder / f"{i}.png")
    return [f"{i}.png" for i in range(count)]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture(params=["coco", "coco, images apart", "beside"])
def place(request, tmp_path):
    """Four pictures to calibrate, four to judge by, in each of the forms."""
    for name in ("train", "val"):
        year = "" if request.param == "beside" else "2017"
        folder = {"coco": tmp_path / f"{name}2017", "beside": tmp_path / name}.get(
            request.param, tmp_path / "images" / f"{name}2017"
        )
        found = annotations(pictures(folder, 4))
        if request.param == "beside":
            write(folder / "_annotations.coco.json", found)
        else:
            write(tmp_path / "annotations" / f"instances_{name}{year}.json", found)
            write(tmp_path / "annotations" / f"person_keypoints_{name}{year}.json", {"no": "instances"})
    return str(tmp_path)


def test_boxes_are_labels(place):
    assert data.detect(place) == "coco"
    splits = data.load("coco", place)
    feeds, labels = splits.calibrate.take(10)
    assert [name.rsplit("/", 1)[1] for name in feeds["image"]] == ["0.png", "1.png", "2.png", "3.png"]
    assert labels.dtype == object
    assert {one.shape for one in labels} == {(3, 5)}
    np.testing.assert_array_equal(labels[2], [[0, 0, 8, 6, 1], [4, 3, 12, 9, 0], [-1] * 5])  # dog is 1: 7 is above 3
    assert any("in the order of their categories' ids: cat, dog" in note for note in splits.notes)
    assert any("validate was halved" in note for note in splits.notes)


FITS = {
    "stretch": ({}, lambda x, y: (x / 2, y * 2 / 3)),
    "pad": ({"fit": "pad"}, lambda x, y: (x / 2, y / 2 + 2)),
    "crop": ({"fit": "crop"}, lambda x, y: (x * 27 / 40 - 3, y * 2 / 3)),
    "shorter": ({"fit": "crop", "shorter": 24}, lambda x, y: (x * 32 / 40 - 6, y * 24 / 30 - 2)),
}


@pytest.mark.parametrize("fit", FITS)
def test_boxes_lie_where_their_pictures_things_do(fit, place):
    table, moved = FITS[fit]
    spec = PreSpec("image", ("image",), {"size": [20, 20], **table}, {})
    read = preprocessing.read(data.load("coco", place), [spec], INPUTS)
    feeds, labels = read.splits.calibrate.take(10)
    assert (feeds["image"].shape, labels.dtype, labels.shape) == ((4, 3, 20, 20), np.float64, (4, 3, 5))
    for k, box in enumerate(labels[3]):
        corners = [moved(4 * k, 3 * k), moved(4 * k + 8, 3 * k + 6)]
        wanted = np.clip(corners, 0, 20)
        if (wanted[1] <= wanted[0]).any():
            assert box[4] == -1
        else:
            np.testing.assert_allclose(box, [*wanted.ravel(), (1, 0)[k % 2]], atol=1e-12)
    assert (labels[0, :, 4] == -1).all()


def test_a_bright_spot_stays_in_its_box(tmp_path):
    names = pictures(tmp_path / "train", 6)
    for name in names:
        spot = Image.new("L", (WIDTH, HEIGHT))
        spot.paste(255, (10, 6, 26, 24))
        spot.convert("RGB").save(tmp_path / "train" / name)
    boxes = [{"image_id": i, "category_id": 3, "bbox": [10, 6, 16, 18]} for i in range(6)]
    write(tmp_path / "train" / "_annotations.coco.json", annotations(names, annotations=boxes))
    splits = data.load("coco", str(tmp_path))
    assert splits.divided
    for table, _ in FITS.values():
        read = preprocessing.read(splits, [PreSpec("image", (), {"size": [20, 20], **table}, {})], INPUTS)
        feeds, labels = read.splits.calibrate.take(1)
        grey = feeds["image"][0, 0] > 0.5
        rows, columns = np.flatnonzero(grey.any(1)), np.flatnonzero(grey.any(0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(labels[0, 0, :4], seen, atol=1)


def test_the_metric_of_boxes_is_taken_and_agrees_with_itself(place):
    pytest.importorskip("pycocotools")
    _, material = subject.read_data(place, None, None, None, INPUTS, Progress(1, silent=True))
    assert material.metric.name == "average_precision"
    _, labels = material.splits.calibrate.take(10)
    scores = np.where(labels[:, :, 4:] >= 0, 1.0, 0.0)
    answers = np.concatenate([labels[:, :, :4], scores, labels[:, :, 4:]], 2)
    metric = metrics.get("average_precision")
    assert metric.finish(metrics.Rows.of(metric.update({"o": answers}, labels)).values) == pytest.approx(1)


def test_crowds_and_boxes_without_an_area_are_left_out_and_said(tmp_path):
    names = pictures(tmp_path, 6)
    boxes = [{"image_id": 0, "category_id": 3, "bbox": [0, 0, 5, 5], "iscrowd": crowd} for crowd in (0, 1)]
    boxes.append({"image_id": 1, "category_id": 3, "bbox": [0, 0, 0, 5]})
    write(tmp_path / "_annotations.coco.json", annotations(names, annotations=boxes))
    splits = data.load("coco", str(tmp_path))
    assert sum((one[:, 4] >= 0).sum() for one in splits.whole().take(10)[1]) == 1
    assert any(note.startswith("1 boxes around crowds are left out") for note in splits.notes)
    assert any(note.startswith("1 boxes without an area") for note in splits.notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": [{"id": 0, "file_name": "../0.png"}], "annotations": []}, r"'\.\./0\.png' leads out of"),
        ({"images": [{"id": 0, "file_name": "/0.png"}], "annotations": []}, r"'/0\.png' leads out of"),
        ({"images": 3}, r"has no annotations of COCO's form: TypeError"),
        ({"categories": [{"id": 3}]}, r"has no annotations of COCO's form: KeyError 'name'"),
        ({"annotations": []}, r"there is no box in its annotations"),
        ({"annotations": [{"image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1]}]}, r"KeyError 9"),
        ({"annotations": [{"image_id": 0, "category_id": 9, "bbox": [0, 0, 1, 1]}]}, r"KeyError 9"),
        ({"annotations": [{"image_id": 0, "category_id": 3, "bbox": [0, 0, 1]}]}, r"ValueError not enough values"),
        ({"annotations": [{"image_id": 0, "category_id": 3, "bbox": [0, 0, 1, float("nan")]}]}, r"ValueError bbox"),
    ],
)
def test_annotations_of_another_form_are_refused(changes, says, tmp_path):
    write(tmp_path / "_annotations.coco.json", annotations(pictures(tmp_path, 4), **changes))
    with pytest.raises(InputError, match=says):
        data.load("coco", str(tmp_path))


def test_splits_that_cannot_be_are_refused(tmp_path):
    for name in ("val", "test"):
        write(tmp_path / name / "_annotations.coco.json", annotations(pictures(tmp_path / name, 4)))
    with pytest.raises(InputError, match=r"none to calibrate with"):
        data.load("coco", str(tmp_path))
    other = annotations(
        pictures(tmp_path / "train", 4), categories=[{"id": 3, "name": "cat"}, {"id": 7, "name": "cow"}]
    )
    write(tmp_path / "train" / "_annotations.coco.json", other)
    with pytest.raises(InputError, match=r"has other categories than"):
        data.load("coco", str(tmp_path))
    with pytest.raises(InputError, match=r"has no annotations/instances_train2017\.json"):
        data.load("coco", str(tmp_path / "none"))
