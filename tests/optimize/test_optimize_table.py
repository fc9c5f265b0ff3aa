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
        "width": ("f", (30, 1)), "height": ("f", (30, 1)), "kind": ("O", (30, 1)),
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
        (["a,b", "1,2"], r"no column of labels: its columns are a, b; call one of them y, label"),
        (["y", "1"], "1 columns and no rows"),
        (["a,y"], "no rows"),
        (["y,split", "1,test"], "nothing but labels"),
        (["a,y", "1,2", ",3"], "column 'a' has 1 empty cells, the first in row 2"),
        (["a,y", "1,2,3"], "cannot be read as csv"),
        (["image,y", "a.jpg,2", "../a.jpg,3"], r"'\.\./a\.jpg' leads out of "),
        (["audio,y", "/elsewhere/a.wav,2", "b.wav,3"], r"'/elsewhere/a\.wav' leads out of "),
        (["a,y,split", "1,2,train"], "'train'; it takes calibrate, validate, test"),
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
    with pytest.raises(InputError, match=r"column 'boxes' has lists or objects in its cells"):
        data.load("table", nested)


@pytest.mark.parametrize("content", [b"", b"\x00\xff\x00", b"PAR1 and no more"])
@pytest.mark.parametrize("name", ["data.csv", "data.jsonl", "data.parquet"])
def test_a_damaged_file_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"data\.(csv|jsonl|parquet)"):
        data.load("table", str(tmp_path / name))
