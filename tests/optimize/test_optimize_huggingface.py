"""Folders of datasets: each feature becomes what the rest of the program knows, and nothing is asked of a network."""

import io
import subprocess
import sys

import numpy as np
import pytest

from optimize import data
from runtime.errors import InputError

datasets = pytest.importorskip("datasets", reason="pip install 'edge-optimize[datasets]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'edge-optimize[image]'")

NAMES = ["cat", "ant"]


def picture(number):
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def split(rows, classes=NAMES):
    features = datasets.Features({
        "photo": datasets.Image(), "words": datasets.Value("string"), "v": datasets.List(datasets.Value("float32")),
        "kind": datasets.ClassLabel(names=classes),
    })  # fmt: skip
    columns = {
        "photo": [{"bytes": picture(i), "path": None} for i in range(rows)],
        "words": [f"text {i}" for i in range(rows)],
        "v": [[i, i / 2] for i in range(rows)], "kind": [i % 2 for i in range(rows)],
    }  # fmt: skip
    return datasets.Dataset.from_dict(columns, features=features)


def test_features_become_columns_by_their_type(tmp_path):
    datasets.DatasetDict({"train": split(12), "validation": split(8)}).save_to_disk(tmp_path / "d")
    place = str(tmp_path / "d")
    assert data.detect(place) == "huggingface"
    splits = data.load("huggingface", place)
    assert [len(one.take(99)[1]) for one in splits] == [12, 4, 4]
    feeds, labels = splits.calibrate.take(99)
    assert (feeds["v"].dtype.name, feeds["v"].shape) == ("float32", (12, 2))
    assert feeds["image"][3] == picture(3) and feeds["words"][3] == "text 3"
    np.testing.assert_array_equal(labels, np.arange(12) % 2)
    assert any("numbered as the data has them: cat, ant are 0 to 1" in note for note in splits.notes)


def test_one_split_is_divided(tmp_path):
    split(40).remove_columns(["photo", "kind"]).save_to_disk(tmp_path / "d")
    splits = data.load("huggingface", str(tmp_path / "d"))
    assert splits.divided and splits.calibrate.take(99)[1] is None
    assert any("no column of labels" in note for note in splits.notes)


def test_labels_of_text_are_numbered_over_all_splits(tmp_path):
    parts = {"train": ["b", "c", "a"], "test": ["c", "b"], "validation": ["a"]}
    given = {name: datasets.Dataset.from_dict({"text": list("xyz")[: len(v)], "label": v}) for name, v in parts.items()}
    datasets.DatasetDict(given).save_to_disk(tmp_path / "d")
    splits = data.load("huggingface", str(tmp_path / "d"))
    assert [list(one.take(9)[1]) for one in splits] == [[1, 2, 0], [0], [2, 1]]
    assert splits.classes == ("a", "b", "c")


def test_no_network_is_asked(tmp_path):
    split(9).save_to_disk(tmp_path / "d")
    code = """
import sys
asked = []
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        asked.append(event)
sys.addaudithook(hook)
from optimize import data
data.load("huggingface", sys.argv[1])
print(asked)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "d")], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"train": 4, "other": 4}, "it takes one for each of calibrate, validate, test"),
        ({"validation": 4, "test": 4}, "it takes one for each"),
        ({"train": 0, "test": 4}, "cannot be read by datasets"),  # its own empty folder
    ],
)
def test_splits_that_cannot_be_are_refused(parts, words, tmp_path):
    datasets.DatasetDict({name: split(rows) for name, rows in parts.items()}).save_to_disk(tmp_path / "d")
    with pytest.raises(InputError, match=words):
        data.load("huggingface", str(tmp_path / "d"))


def test_a_damaged_folder_is_refused(tmp_path):
    split(4).save_to_disk(tmp_path / "d")
    next((tmp_path / "d").glob("*.arrow")).write_bytes(b"no arrow")
    with pytest.raises(InputError, match="cannot be read by datasets"):
        data.load("huggingface", str(tmp_path / "d"))
    with pytest.raises(InputError, match="is no folder that `save_to_disk`"):
        data.load("huggingface", str(tmp_path))
