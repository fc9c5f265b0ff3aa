import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimize import data
from optimize.data import NAMES, Split, Splits, cut, examine, from_arrays, infer_inputs, prepare, resized, to_batch
from optimize.data._held import Held
from runtime.errors import InputError
from runtime.tensors import TensorSpec

IMAGE = (TensorSpec("image", "float32", ("batch", 3)),)


def arrays(samples=20, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((samples, 3)).astype(np.float32), random.integers(0, 4, samples)


def everything(split: Split):
    """All inputs and labels of a split, one after the other."""
    batches = list(split.batches(7))
    feeds = {name: np.concatenate([batch[0][name] for batch in batches]) for name in batches[0][0]}
    return feeds, None if batches[0][1] is None else np.concatenate([batch[1] for batch in batches])


def npz(tmp_path, **content):
    path = tmp_path / "data.npz"
    np.savez(path, **content)
    return str(path)


def script(tmp_path, text):
    path = tmp_path / "source.py"
    path.write_text("import numpy as np\nrandom = np.random.default_rng(0)\n" + text)
    return f"{path}:splits"


# an .npz file


def test_npz_with_suffixes_holds_three_splits(tmp_path):
    content = {
        f"{key}_{name}": part for i, name in enumerate(NAMES) for key, part in zip("xy", arrays(9, i), strict=True)
    }
    splits = data.load("npz", npz(tmp_path, **content))
    assert not splits.divided and splits.notes == ()
    for split in splits:
        feeds, labels = everything(split)
        np.testing.assert_array_equal(feeds["x"], content[f"x_{split.name}"])
        np.testing.assert_array_equal(labels, content[f"y_{split.name}"])


@pytest.mark.parametrize("labels", ["y", "label", "labels"])
def test_npz_with_x_and_labels_is_divided(tmp_path, labels):
    x, y = arrays(50)
    splits = data.load("npz", npz(tmp_path, x=x, **{labels: y}))
    assert splits.divided and "data.npz has one split" in splits.notes[0]
    rows = [everything(split) for split in splits]
    order = np.argsort(np.concatenate([feeds["x"][:, 0] for feeds, _ in rows]))
    np.testing.assert_array_equal(np.concatenate([feeds["x"] for feeds, _ in rows])[order], x[np.argsort(x[:, 0])])
    np.testing.assert_array_equal(np.concatenate([found for _, found in rows])[order], y[np.argsort(x[:, 0])])


def test_npz_with_named_inputs_and_no_labels(tmp_path):
    content = {f"{key}_{name}": np.arange(6.0) for key in ("left_ids", "right") for name in NAMES}
    feeds, labels = everything(data.load("npz", npz(tmp_path, **content)).test)
    assert sorted(feeds) == ["left_ids", "right"] and labels is None


def test_npz_input_whose_name_is_a_split_is_an_input(tmp_path):
    splits = data.load("npz", npz(tmp_path, test=np.arange(9.0)))
    assert splits.divided and list(everything(splits.validate)[0]) == ["test"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "holds no arrays"),
        ({"x": np.ones(9), "x_test": np.ones(9)}, "name no split while others do"),
        ({"x_calibrate": np.ones(9), "x_test": np.ones(9)}, "splits validate are missing"),
        ({f"x_{name}": np.ones(9 if name == "test" else 0) for name in NAMES}, "split 'calibrate' is empty"),
        ({"x": np.ones((9, 2)), "y": np.ones(8)}, "differ in their number of samples"),
        ({"x": np.ones(9), "scale": np.float32(3)}, "differ in their number of samples"),
        ({"y": np.ones(9)}, "has no input"),
        ({"x": np.ones(2)}, "2 samples cannot be divided"),
        ({"x": np.array([1, "a", None], object)}, "cannot be read as"),
    ],
)
def test_npz_that_cannot_be_used_is_refused(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        data.load("npz", npz(tmp_path, **content))


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_truncated_npz_is_refused(tmp_path, kept):
    place = npz(tmp_path, x=np.random.default_rng(0).random((200, 30)), y=np.zeros(200, np.int64))
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "data.npz").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(InputError, match=r"data\.npz"):
        data.load("npz", place)


def test_npz_with_damaged_bytes_is_refused(tmp_path):
    place = npz(tmp_path, x=np.random.default_rng(0).random((200, 30)))
    whole = bytearray((tmp_path / "data.npz").read_bytes())
    whole[len(whole) // 2] ^= 255
    (tmp_path / "data.npz").write_bytes(whole)
    with pytest.raises(InputError, match=r"data\.npz"):
        data.load("npz", place)


@pytest.mark.parametrize("kind", ["text", "npy", "folder", "missing"])
def test_what_is_no_npz_is_refused(tmp_path, kind):
    path = tmp_path / "data.npz"
    if kind == "text":
        path.write_text("x,y\n1,2\n")
    elif kind == "npy":
        held = io.BytesIO()
        np.save(held, np.ones(9))
        path.write_bytes(held.getvalue())
    elif kind == "folder":
        path.mkdir()
    with pytest.raises(InputError, match=r"data\.npz"):
        data.load("npz", str(path))


# a user's callable


def test_python_dict_of_splits(tmp_path):
    place = script(
        tmp_path,
        "def splits():\n"
        "    return {'calibrate': (np.full((8, 3), 1.0), np.zeros(8, int)),\n"
        "            'validate': {'x': np.full((5, 3), 2.0), 'y': np.ones(5, int)},\n"
        "            'test': {'x': np.full((4, 3), 3.0), 'labels': np.full(4, 2)}, 'note': 'not a split'}\n",
    )
    splits = data.load("python", place)
    assert not splits.divided
    for i, (split, samples) in enumerate(zip(splits, (8, 5, 4), strict=True)):
        feeds, labels = everything(split)
        np.testing.assert_array_equal(feeds["x"], np.full((samples, 3), i + 1.0))
        np.testing.assert_array_equal(labels, np.full(samples, i))


@pytest.mark.parametrize(
    ("value", "names", "labelled"),
    [
        ("np.ones((30, 3))", ["x"], False),
        ("(np.ones((30, 3)), np.zeros(30, int))", ["x"], True),
        ("[np.ones((30, 3)), np.zeros(30, int)]", ["x"], True),
        ("{'a': np.ones((30, 3)), 'b': np.ones(30)}", ["a", "b"], False),
        ("{'a': np.ones((30, 3)), 'b': np.ones(30), 'y': np.zeros(30, int)}", ["a", "b"], True),
        ("({'a': np.ones((30, 3)), 'b': np.ones(30)}, np.zeros(30, int))", ["a", "b"], True),
    ],
)
def test_python_one_split_is_divided(tmp_path, value, names, labelled):
    splits = data.load("python", script(tmp_path, f"def splits(): return {value}\n"))
    assert splits.divided
    feeds, labels = everything(splits.whole())
    assert sorted(feeds) == names and len(feeds[names[0]]) == 30 and (labels is not None) == labelled


def test_python_takes_torch_tensors(tmp_path):
    place = script(
        tmp_path, "import torch\ndef splits(): return torch.ones(30, 3), torch.zeros(30, dtype=torch.int64)\n"
    )
    feeds, labels = everything(data.load("python", place).whole())
    assert type(feeds["x"]) is np.ndarray and feeds["x"].dtype == np.float32 and labels.dtype == np.int64


STREAMS = {
    "generator function": "def stream():\n    for i in range(5): yield np.full((4, 3), i), np.full(4, i)\n",
    "list of batches": "stream = [(np.full((4, 3), i), np.full(4, i)) for i in range(5)]\n",
    "list of dicts": "stream = [{'x': np.full((4, 3), i), 'y': np.full(4, i)} for i in range(5)]\n",
    "loader": "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
    "i = torch.arange(5).repeat_interleave(4)\n"
    "stream = DataLoader(TensorDataset(i[:, None].repeat(1, 3), i), batch_size=3)\n",
}


@pytest.mark.parametrize("kind", STREAMS)
def test_python_streams_begin_anew_each_pass(tmp_path, kind):
    place = script(
        tmp_path, STREAMS[kind] + "def splits(): return dict.fromkeys(('calibrate', 'validate', 'test'), stream)\n"
    )
    splits = data.load("python", place)
    for _ in range(2):
        feeds, labels = everything(splits.validate)
        np.testing.assert_array_equal(labels, np.repeat(np.arange(5), 4))
        np.testing.assert_array_equal(feeds["x"], np.repeat(np.arange(5), 4)[:, None].repeat(3, 1))


@pytest.mark.parametrize(
    "batch", ["(np.full((4, 3), i), np.full(4, i))", "{'x': np.full((4, 3), i), 'y': np.full(4, i)}"]
)
def test_python_list_of_exactly_two_batches_keeps_both(tmp_path, batch):
    text = f"def splits():\n    stream = [{batch} for i in range(2)]\n    return dict.fromkeys({NAMES!r}, stream)\n"
    _, labels = everything(data.load("python", script(tmp_path, text)).test)
    np.testing.assert_array_equal(labels, [0, 0, 0, 0, 1, 1, 1, 1])


def test_python_stream_is_not_held_in_memory(tmp_path):
    text = (
        "made = []\n"
        "def stream():\n"
        "    for i in range(1000):\n"
        "        made.append(i)\n"
        "        yield np.full((4, 3), i)\n"
        f"def splits(): return dict.fromkeys({NAMES!r}, stream)\n"
        "splits.made = made\n"
    )
    place = script(tmp_path, text)
    split = data.load("python", place).calibrate
    from optimize.usercode import load_callable

    split.take(8)
    assert load_callable(place, "data").made == [0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def splits(): raise OSError('disk is gone')", "raised OSError: disk is gone"),
        ("def splits(): return {'calibrate': np.ones(9), 'test': np.ones(9)}", "validate missing"),
        ("def splits(): return (np.ones((2, 3)) for _ in range(3))", "a stream cannot be divided"),
        ("def splits(): return lambda: iter(())", "a stream cannot be divided"),
        ("def splits(): return dict.fromkeys(NAMES, iter([np.ones(3)]))", "ends after one pass"),
        ("def splits(): return {name: (np.ones(3) for _ in range(2)) for name in NAMES}", "ends after one pass"),
        ("def splits(): return dict.fromkeys(NAMES, 'data.csv')", "is a str"),
        ("def splits(): return dict.fromkeys(NAMES, 3)", "is a int"),
        ("def splits(): return None", "source.py:splits"),
        ("def splits(): return dict.fromkeys(NAMES, (np.ones((4, 3)), np.zeros(3)))", "differ in their number"),
        ("def splits(): return {'x': np.array([object()] * 9)}", "Python objects"),
        ("def splits(): return {'y': np.ones(9)}", "a batch is x"),
        ("def splits(): return {'x': np.float32(3)}", "a batch is x"),
        ("def splits(): return {'x': [[1.0], [1.0, 2.0], [1.0]]}", "source.py:splits"),
        ("import torch\ndef splits(): return {'x': torch.ones(9, 3, requires_grad=True)}", "source.py:splits"),
    ],
)
def test_python_that_gives_no_data_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        data.load("python", script(tmp_path, f"NAMES = {NAMES!r}\n{text}\n"))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("yield np.ones((2, 3)); raise OSError('disk is gone')", "split 'test' raised OSError: disk is gone"),
        ("yield 'picture.png'", "split 'test'"),
        ("yield {'y': np.ones(2)}", "a batch is x"),
        ("yield [np.ones(2), np.ones(2), np.ones(3)]", "split 'test'"),
        ("return 3\n    yield", "is empty"),
    ],
)
def test_python_stream_that_fails_on_the_way_names_its_split(tmp_path, body, message):
    text = f"def stream():\n    {body}\ndef splits(): return dict.fromkeys({NAMES!r}, stream)\n"
    split = data.load("python", script(tmp_path, text)).test
    with pytest.raises(InputError, match=message):
        examine(split, (TensorSpec("x", "float64", ("batch", 3)),))


def test_python_stream_of_a_callable_that_returns_no_iterable_is_refused(tmp_path):
    text = f"def splits(): return dict.fromkeys({NAMES!r}, lambda: 3)\n"
    with pytest.raises(InputError, match="split 'calibrate' raised TypeError"):
        data.load("python", script(tmp_path, text)).calibrate.take(1)


def test_kinds_of_data_are_told_by_their_place():
    assert data.detect("a/b.npz") == "npz" and data.detect("a/b.py:splits") == "python"
    with pytest.raises(InputError, match=r"Give an \.npz file"):
        data.detect("pictures/")
    with pytest.raises(InputError, match="did you mean 'python'"):
        data.load("pyton", "x.py:y")


# batches


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 50), st.booleans())
@settings(max_examples=200, deadline=None)
def test_batches_keep_order_and_every_sample(chunks, size, labelled):
    bounds = np.cumsum([0, *chunks])
    whole = np.arange(bounds[-1])

    def passes():
        for start, stop in itertools.pairwise(bounds):
            rows = whole[start:stop]
            yield {"a": rows[:, None] * 2.0, "b": rows}, (-rows if labelled else None)

    batches = list(Split("test", passes).batches(size))
    sizes = [len(feeds["a"]) for feeds, _ in batches]
    assert sizes[:-1] == [size] * (len(batches) - 1) and 1 <= sizes[-1] <= size
    np.testing.assert_array_equal(np.concatenate([feeds["b"] for feeds, _ in batches]), whole)
    np.testing.assert_array_equal(np.concatenate([feeds["a"] for feeds, _ in batches])[:, 0], whole * 2.0)
    if labelled:
        np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), -whole)
    else:
        assert all(labels is None for _, labels in batches)


@settings(deadline=None)
@given(chunks=st.lists(st.integers(1, 9), min_size=1, max_size=9), most=st.integers(1, 40))
def test_a_part_has_so_many_samples_in_their_order_the_same_in_each_pass(chunks, most):
    x = np.arange(sum(chunks), dtype=np.float32)
    ends = np.cumsum(chunks)

    def passes():
        for begin, end in zip(ends - chunks, ends, strict=True):
            yield {"x": x[begin:end, None], "both": x[None, begin:end]}, 2 * x[begin:end]

    part = Split("test", passes, axes={"both": 1}).part(most, len(x))
    first, again = list(part.batches(4)), list(part.batches(3))
    drawn, labels = np.concatenate([feeds["x"][:, 0] for feeds, _ in first]), np.concatenate([y for _, y in first])
    assert len(drawn) == min(most, len(x)) and (np.diff(drawn) > 0).all()
    assert (labels == 2 * drawn).all() and (np.concatenate([feeds["both"][0] for feeds, _ in first]) == drawn).all()
    assert (np.concatenate([feeds["x"][:, 0] for feeds, _ in again]) == drawn).all()


def test_a_part_of_what_is_sorted_has_some_of_each_kind():
    y = np.repeat(np.arange(10), 100)
    part = Split("test", lambda: iter([({"x": y[:, None]}, y)])).part(100, 1000)
    assert set(part.take(100)[1]) == set(range(10))


def test_take_gives_the_first_samples_and_fewer_where_there_are_fewer():
    x, y = arrays(100)
    split = from_arrays({name: {"x": x, "y": y} for name in NAMES}, "here").test
    np.testing.assert_array_equal(split.take(70)[0]["x"], x[:70])
    assert len(split.take(500)[1]) == 100


# division


def divided(labels, seed=0):
    x = np.arange(len(labels), dtype=np.float32)[:, None]
    splits = from_arrays({"": {"x": x, "y": np.asarray(labels)}}, "here")
    return splits, [everything(split) for split in splits]


def test_division_is_disjoint_complete_and_always_the_same():
    labels = np.random.default_rng(1).integers(0, 5, 333)
    splits, parts = divided(labels)
    rows = np.concatenate([feeds["x"][:, 0] for feeds, _ in parts]).astype(int)
    np.testing.assert_array_equal(np.sort(rows), np.arange(333))
    np.testing.assert_array_equal(np.concatenate([found for _, found in parts]), labels[rows])
    assert [len(found) for _, found in parts] == [133, 100, 100]
    again = divided(labels)[1]
    for (feeds, _), (other, _) in zip(parts, again, strict=True):
        np.testing.assert_array_equal(feeds["x"], other["x"])
    assert "133, 100 and 100 samples" in splits.notes[0] and "seed 0" in splits.notes[0]


def test_division_is_stratified_where_each_class_has_ten():
    labels = np.repeat([0, 1, 7], [10, 40, 150])
    splits, parts = divided(labels)
    assert "stratified by class" in splits.notes[0]
    for (_, found), share in zip(parts, data.SHARES, strict=True):
        for one, count in ((0, 10), (1, 40), (7, 150)):
            assert abs((found == one).sum() - share * count) <= 1.5


@pytest.mark.parametrize("labels", [np.repeat([0, 1], [9, 191]), np.linspace(0, 1, 200), np.zeros((200, 2), np.int64)])
def test_division_is_at_random_elsewhere(labels):
    splits, parts = divided(labels)
    assert "at random" in splits.notes[0] and splits.divided
    assert not np.array_equal(parts[0][0]["x"][:, 0], np.arange(len(parts[0][1])))


def test_division_mixes_data_that_is_sorted_by_class():
    _, parts = divided(np.repeat(np.arange(20), 9))  # nine a class: not stratified
    assert all(len(np.unique(found)) > 10 for _, found in parts)


@pytest.mark.parametrize("samples", [3, 4, 5, 10])
def test_division_of_few_leaves_no_split_empty(samples):
    _, parts = divided(np.zeros(samples))
    assert min(len(found) for _, found in parts) >= 1 and sum(len(found) for _, found in parts) == samples


# preparing and examining


def three(**content):
    return from_arrays(dict.fromkeys(NAMES, content), "here")


def test_prepare_casts_floats_and_says_so():
    x, y = arrays()
    splits = prepare(three(image=x.astype(np.float64), y=y), IMAGE)
    feeds, labels = everything(splits.test)
    assert feeds["image"].dtype == np.float32 and labels.dtype == y.dtype
    np.testing.assert_array_equal(feeds["image"], x)
    assert splits.notes == ("the data's float64 was cast to the model's float32 ('image')",)


def test_prepare_says_nothing_where_nothing_is_cast():
    assert prepare(three(image=arrays()[0]), IMAGE).notes == ()


def test_prepare_names_a_single_array_as_the_model_does():
    assert list(everything(prepare(three(picture=arrays()[0]), IMAGE).test)[0]) == ["image"]


def test_prepare_casts_whole_numbers_that_fit_only():
    inputs = (TensorSpec("ids", "int32", ("batch",)),)
    small, large = np.arange(10, dtype=np.int64), np.arange(10, dtype=np.int64) + 2**40
    assert everything(prepare(three(ids=small), inputs).test)[0]["ids"].dtype == np.int32
    kept = prepare(three(ids=large), inputs)
    with pytest.raises(InputError, match="dtype int64"):
        examine(kept.test, inputs)


def test_prepare_makes_arrays_contiguous_for_engines_that_read_memory():
    x = np.asfortranarray(arrays()[0])
    assert prepare(three(image=x), IMAGE).test.take(9)[0]["image"].flags.c_contiguous


def test_examine_tells_the_facts():
    x, y = arrays(150)
    facts = examine(prepare(three(image=x, y=y), IMAGE).test, IMAGE)
    assert facts.samples == 150 and facts.labelled and facts.integer
    assert facts.labels.tolist() == [y.min(), y.max()]
    floats = examine(prepare(three(image=x, y=y.astype(float)), IMAGE).test, IMAGE)
    assert floats.labelled and not floats.integer and floats.labels is None
    assert not examine(prepare(three(image=x), IMAGE).test, IMAGE).labelled


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["image", "the labels"])
def test_examine_names_the_split_and_sample_of_nan(bad, where):
    x, y = arrays(150)
    y = y.astype(float)
    (x if where == "image" else y)[137] = bad
    splits = prepare(three(image=x, y=y), IMAGE)
    with pytest.raises(InputError, match=f"split 'validate' has NaN or infinity in '{where}', first in sample 137"):
        examine(splits.validate, IMAGE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"image": np.full((9, 3), 2**24 + 1)}, "split 'test': input 'image' has dtype int64"),
        ({"image": np.ones((9, 4), np.float32)}, r"split 'test': input 'image' has shape \(9, 4\)"),
        ({"image": np.ones((9, 3, 1), np.float32)}, r"shape \(9, 3, 1\)"),
        ({"image": np.ones((9, 3), np.float32), "mask": np.ones(9, np.float32)}, "got inputs"),
        ({"picture": np.ones((9, 3), np.float32), "mask": np.ones(9, np.float32)}, "got inputs"),
    ],
)
def test_examine_refuses_what_the_model_does_not_take(content, message):
    with pytest.raises(InputError, match=message):
        examine(prepare(three(**content), IMAGE).test, IMAGE)


def test_examine_refuses_labels_that_are_not_as_many_as_samples():
    split = Split("test", lambda: [({"image": arrays(4)[0]}, np.zeros(4)), ({"image": arrays(4)[0]}, np.zeros(3))])
    with pytest.raises(InputError, match="split 'test' has 4 samples and 3 labels"):
        examine(split, IMAGE)


@pytest.mark.parametrize("what", ["image", "y"])
def test_sha256_changes_with_one_value(what):
    x, y = arrays(150)
    before = examine(prepare(three(image=x, y=y), IMAGE).test, IMAGE).sha256
    assert examine(prepare(three(image=x.copy(), y=y.copy()), IMAGE).test, IMAGE).sha256 == before
    if what == "image":
        x[149, 2] = np.nextafter(x[149, 2], np.float32(9))
    else:
        y[149] += 1
    assert examine(prepare(three(image=x, y=y), IMAGE).test, IMAGE).sha256 != before


def test_sha256_changes_with_the_order_of_samples():
    x, y = arrays(20)
    one, other = (
        examine(prepare(three(image=x[rows], y=y[rows]), IMAGE).test, IMAGE) for rows in (range(20), range(19, -1, -1))
    )
    assert one.sha256 != other.sha256 and one.samples == other.samples


def test_inputs_are_inferred_from_the_data():
    feeds = {"image": np.ones((4, 3, 8)), "ids": np.ones((4, 2), np.int64), "half": np.ones(4, np.float16)}
    assert infer_inputs((feeds, None)) == (
        TensorSpec("image", "float32", ("batch", 3, 8)),
        TensorSpec("ids", "int64", ("batch", 2)),
        TensorSpec("half", "float16", ("batch",)),
    )


def test_labels_are_taken_out_of_a_batch():
    feeds, labels = to_batch({"a": [1.0, 2.0], "label": [0, 1]}, "here")
    assert list(feeds) == ["a"] and labels.tolist() == [0, 1]


def test_whole_is_all_three_in_order():
    splits = Splits.of({name: (lambda i=i: [({"x": np.full(2, i)}, None)]) for i, name in enumerate(NAMES)})
    assert everything(splits.whole())[0]["x"].tolist() == [0, 0, 1, 1, 2, 2]


def test_an_empty_stream_is_refused_and_named():
    splits = Splits.of(dict.fromkeys(NAMES, lambda: iter(())))
    with pytest.raises(InputError, match="calibrate"):
        prepare(splits, IMAGE)
    with pytest.raises(InputError, match="calibrate"):
        splits.calibrate.take(1)


def test_a_callable_that_gives_the_same_iterator_again_is_refused(tmp_path):
    text = (
        f"once = iter([np.ones((4, 3), np.float32)] * 3)\ndef splits(): return dict.fromkeys({NAMES!r}, lambda: once)\n"
    )
    split = data.load("python", script(tmp_path, text)).test
    with pytest.raises(InputError, match="test"):
        for _ in range(2):
            list(split.batches(4))
            split.take(4)


def test_samples_that_lie_along_another_axis_are_joined_and_cut_along_it():
    x, h = np.arange(12.0).reshape(6, 2), np.arange(36.0).reshape(2, 6, 3)
    tick = np.zeros(5)
    parts = [({"x": x[i : i + 1], "h": h[:, i : i + 1], "tick": tick}, np.array([i])) for i in range(6)]
    split = Split("calibrate", lambda: parts, axes={"h": 1, "tick": None})
    sizes = []
    for feeds, labels in split.batches(4):
        np.testing.assert_array_equal(feeds["x"], x[labels])
        np.testing.assert_array_equal(feeds["h"], h[:, labels])
        np.testing.assert_array_equal(feeds["tick"], tick)
        sizes.append(len(labels))
    assert sizes == [4, 2]
    feeds, _ = split.take(2)
    full = resized(feeds, 5, split.axes)
    np.testing.assert_array_equal(full["h"], h[:, [0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(full["x"], x[[0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(cut((feeds, None), 1, 2, split.axes)[0]["h"], h[:, 1:2])


def test_what_answers_are_judged_by_is_read_once_where_it_is_small():
    read = []

    def passes(name):
        def begun():
            read.append(name)
            yield {"x": np.full((3, 2), len(read), np.float32)}, np.arange(3)
            yield {"x": np.full((2, 2), len(read), np.float32)}, np.arange(2)

        return begun

    splits = Splits.of({name: passes(name) for name in NAMES}).held()
    for split in splits:
        first = [(feeds["x"].copy(), labels) for feeds, labels in split.batches(2)]
        for _ in range(2):
            again = list(split.batches(2))
            pairs = zip(first, again, strict=True)
            same = all(np.array_equal(x, feeds["x"]) and np.array_equal(y, labels) for (x, y), (feeds, labels) in pairs)
            assert len(again) == 3 and same == (split.name != "calibrate")
    assert [read.count(name) for name in NAMES] == [3, 1, 1]


def test_who_writes_into_labels_writes_into_no_later_pass():
    held = Held(lambda: iter([({"x": np.zeros((3, 2), np.float32)}, np.arange(3))]))
    for _ in range(3):
        ((feeds, labels),) = held()
        assert labels.tolist() == [0, 1, 2] and list(feeds) == ["x"]
        labels[:] = 7
        feeds.clear()


@pytest.mark.parametrize("most", [0, 59, 60, 100])
def test_what_is_too_large_or_was_not_read_to_its_end_is_read_anew(most):
    read = []

    def passes():
        for _ in range(2):
            read.append(1)
            yield {"x": np.zeros((3, 2), np.float32)}, np.zeros(3, np.uint16)  # 30 bytes

    held = Held(passes, most)
    next(iter(held()))
    assert len(read) == 1  # given up after the first
    for _ in range(3):
        assert len(list(held())) == 2
    assert len(read) == 1 + (2 if most >= 60 else 6)
