"""Tables as data: typed columns, a column of labels, one that divides the rows."""

import json

import numpy as np
import pytest

from optimize import data
from runtime.errors import InputError

pyarrow = pytest.importorskip("pyarrow", reason="pip install 'edge-optimize[tables]'")

SAYS = ["no", "yes", "maybe"]
ROWS = ["width,height,kind,label", *(f"{i},{i / 2},{'ab'[i % 2]},{SAYS[i % 3]}" for i in range(30))]


def write(folder, lines, name="data.csv"):
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def whole(splits):
    return splits.whole().take(10_000)


def test_columns_of_numbers_are_one_input_in_the_files_order(tmp_path):
    place = write(tmp_path, [",".join(line.split(",")[:2] + line.split(",")[3:]) for line in ROWS])
    assert data.detect(place) == "table"
    feeds, labels = whole(data.load("table", place))
    assert (feeds["x"].dtype, feeds["x"].shape) == (np.float32, (30, 2))
    np.testing.assert_array_equal(feeds["x"][:, 1] * 2, feeds["x"][:, 0])
    names = ["maybe", "no", "yes"]  # in the order of the alphabet
    np.testing.assert_array_equal(labels, [names.index(SAYS[int(x) % 3]) for x in feeds["x"][:, 0]])


def test_where_there_is_text_each_column_is_an_input(tmp_path):
    feeds, _ = whole(data.load("table", write(tmp_path, ROWS)))
    assert {name: (value.dtype.kind, value.shape) for name, value in feeds.items()} == {
        "width": ("i", (30, 1)), "height": ("f", (30, 1)), "kind": ("O", (30, 1)),
    }  # fmt: skip
    assert set(feeds["kind"][:, 0]) == {"a", "b"}


def test_a_column_divides_the_rows(tmp_path):
    parts = ["calibrate", "validate", "test"]
    lines = ["a,y,split", *(f"{i},{i / 10},{parts[i % 3]}" for i in range(12))]
    splits = data.load("table", write(tmp_path, lines))
    for place, split in enumerate(splits):
        feeds, labels = split.take(100)
        np.testing.assert_array_equal(feeds["x"][:, 0], np.arange(place, 12, 3))
        np.testing.assert_allclose(labels, np.arange(place, 12, 3) / 10, rtol=1e-6)


def test_the_forms_are_one(tmp_path):
    from pyarrow import csv, parquet

    place = write(tmp_path, ROWS)
    tabs = write(tmp_path, [line.replace(",", "\t") for line in ROWS], "data.tsv")
    parquet.write_table(csv.read_csv(place), tmp_path / "data.parquet")
    first, *others = (whole(data.load("table", one)) for one in (place, tabs, str(tmp_path / "data.parquet")))
    for feeds, labels in others:
        np.testing.assert_array_equal(labels, first[1])
        assert all((feeds[name] == first[0][name]).all() for name in first[0])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["y", "1"], "nothing but labels"),
        (["a,y"], "2 columns and no rows"),
        (["a,y", "1,2", "3,nan"], "column 'y' has 1 empty cells, the first in row 2"),
        (["split", "test"], "no columns beside 'split'"),
        (["a,y,split", "1,2,train"], "the column 'split' has calibrate alone"),
        (["y,split", "1,test"], "nothing but labels"),
        (["a,y", "1,2", ",3"], "column 'a' has 1 empty cells, the first in row 2"),
        (["a,y", "1,2,3"], "cannot be read as csv"),
        (["image,y", "a.jpg,2", "../a.jpg,3"], r"'\.\./a\.jpg' leads out of "),
        (["audio,y", "/elsewhere/a.wav,2", "b.wav,3"], r"'/elsewhere/a\.wav' leads out of "),
        (["a,y,split", "1,2,trian"], "'trian'; it takes calibrate, validate, test"),
    ],
)
def test_what_is_no_table_of_samples_is_refused(lines, words, tmp_path):
    with pytest.raises(InputError, match=words):
        data.load("table", write(tmp_path, lines))


@pytest.mark.parametrize("name", ["image", "audio"])
def test_a_column_of_that_name_has_paths_from_the_tables_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    lines = [f"{name},who,label", *(f"parts/{i}.x,w{i},{SAYS[i % 3]}" for i in range(30))]
    feeds, labels = whole(data.load("table", write(tmp_path / "set", lines)))
    assert set(feeds[name][:, 0]) == {str(tmp_path / "set" / "parts" / f"{i}.x") for i in range(30)}
    assert set(feeds["who"][:, 0]) == {f"w{i}" for i in range(30)}
    assert set(labels.tolist()) == {0, 1, 2}


def test_lines_of_json_are_rows(tmp_path):
    lines = [json.dumps({"width": i, "audio": f"{i}.wav", "label": SAYS[i % 3]}) for i in range(30)]
    place = write(tmp_path, lines, "data.jsonl")
    assert data.detect(place) == "table"
    feeds, labels = whole(data.load("table", place))
    assert feeds["audio"][:, 0].tolist() == [str(tmp_path / f"{i:.0f}.wav") for i in feeds["width"][:, 0]]
    np.testing.assert_array_equal(
        labels, [["maybe", "no", "yes"].index(SAYS[int(i) % 3]) for i in feeds["width"][:, 0]]
    )
    nested = write(tmp_path, ['{"boxes": [1, 2], "y": 1}', '{"boxes": [3], "y": 0}'], "data.jsonl")
    with pytest.raises(InputError, match=r"the lists in column 'boxes' have 2 sizes"):
        data.load("table", nested)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\x00", b"PAR1 and no more"])
@pytest.mark.parametrize("name", ["data.csv", "data.parquet", "data.jsonl"])
def test_a_damaged_file_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"data\.(csv|parquet|jsonl)"):
        data.load("table", str(tmp_path / name))


def lines_of(*rows):
    return [json.dumps(row) for row in rows]


def test_json_lines_keep_what_each_column_is(tmp_path):
    rows = [
        {"text": f"the {i}th, 'quoted'\nline", "n": 2**40 + i, "share": i / 2, "on": bool(i % 2), "v": [i, i + 1],
         "label": SAYS[i % 3]}
        for i in range(30)
    ]  # fmt: skip
    place = write(tmp_path, lines_of(*rows), "data.jsonl")
    assert data.detect(place) == data.detect(place.replace("jsonl", "ndjson")) == "table"
    splits = data.load("table", place)
    feeds, labels = whole(splits)
    kinds = {name: (value.dtype.name, value.shape[1:]) for name, value in feeds.items()}
    assert kinds == {
        "text": ("object", (1,)), "n": ("int64", (1,)), "share": ("float32", (1,)), "on": ("float32", (1,)),
        "v": ("int64", (2,)),
    }  # fmt: skip
    at = feeds["v"][:, 0]
    np.testing.assert_array_equal(feeds["n"][:, 0], 2**40 + at)
    assert [text for text in feeds["text"][:, 0]] == [rows[i]["text"] for i in at]
    assert [["maybe", "no", "yes"][one] for one in labels] == [SAYS[i % 3] for i in at]
    assert "numbered in the order of the alphabet: maybe, no, yes are 0 to 2" in splits.notes[-1]


def test_a_table_without_labels_says_so(tmp_path):
    splits = data.load("table", write(tmp_path, [line.rpartition(",")[0] for line in ROWS]))
    assert whole(splits)[1] is None
    assert "no column of labels: its columns are width, height, kind; one called y, label" in splits.notes[-1]


def test_labels_of_tokens_are_made_equally_long(tmp_path):
    rows = [{"text": "w " * (1 + i % 4), "labels": [1] * (1 + i % 4)} for i in range(12)]
    _, labels = whole(data.load("table", write(tmp_path, lines_of(*rows), "data.jsonl")))
    assert labels.shape == (12, 4)
    assert sorted((labels == -100).sum(1)) == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_the_usual_names_of_splits_are_known_and_one_is_halved(tmp_path):
    lines = ["a,y,split", *(f"{i},{i},{'train' if i < 8 else 'validation'}" for i in range(16))]
    splits = data.load("table", write(tmp_path, lines))
    assert [len(split.take(100)[1]) for split in splits] == [8, 4, 4]
    assert "has no test: validate was halved" in " ".join(splits.notes)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"v": [1, 2], "y": 0}, {"v": [1], "y": 1}], r"the lists in column 'v' have 2 sizes, \[1\], \[2\] say"),
        ([{"v": ["a"], "y": 0}], "column 'v' has a list that is not of numbers"),
        ([{"v": 1, "y": 0}, {"y": 1}], "column 'v' has 1 empty cells, the first in row 2"),
        ([{"v": 1, "y": None}], "column 'y' has 1 empty cells"),
        ([{"v": 1, "y": 0}, {"v": "a", "y": 0}], "cannot be read as jsonl"),
    ],
)
def test_json_lines_that_cannot_be_are_refused(rows, words, tmp_path):
    with pytest.raises(InputError, match=words):
        data.load("table", write(tmp_path, lines_of(*rows), "data.jsonl"))


def test_whole_numbers_go_where_floats_are_wanted_if_each_stays_the_same():
    from optimize.data import from_arrays, prepare
    from runtime.tensors import TensorSpec

    wanted = [TensorSpec("n", "float32", ("batch", 1))]
    for number, kind in ((2**24, "f"), (2**24 + 1, "i")):
        given = from_arrays({"": {"n": np.full((9, 1), number)}}, "here")
        assert prepare(given, wanted).calibrate.take(1)[0]["n"].dtype.kind == kind


def test_a_label_that_is_no_number_is_named():
    from optimize.data._columns import labelled

    with pytest.raises(InputError, match=r"here: the label in row 2 is no number \(target = nan\)"):
        labelled({"a": np.zeros(2), "target": np.array([1.0, np.nan])}, "here")
