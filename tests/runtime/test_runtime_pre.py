"""Pictures and texts as raw samples: settings, what is read, how it is fitted; sound has a file of its own."""

import io
import json
from dataclasses import asdict, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import engines, pre
from runtime.errors import EngineMissing, InputError
from runtime.pre import Preprocessing, PreSpec
from runtime.pre._geometry import Geometry
from runtime.pre.image import Settings
from runtime.tensors import Frame, TensorSpec

Image = pytest.importorskip("PIL.Image", reason="pip install 'edge-optimize[image]'")
pytest.importorskip("tokenizers", reason="pip install 'edge-optimize[text]'")

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (13, 22, 3), np.uint8)


def spec(*shape, name="x", dtype="float32", frame=None):
    return TensorSpec(name, dtype, shape, frame)


def made(kind, samples, inputs=(), /, files=None, **table):
    opened = PreSpec(kind, ("raw",), table, files or {}).open(inputs)
    return opened.batch([opened.sample(*one) if isinstance(one, tuple) else opened.sample(one) for one in samples])


def picture(raw, inputs=(), /, **table):
    (found,) = made("image", [raw], inputs, **table).values()
    return found[0]


# --- settings


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3), max_leaves=4,
)  # fmt: skip


@pytest.mark.parametrize("kind", ["image", "text"])
def test_any_table_gives_settings_or_is_refused(kind):
    known = type(pre.settings(kind, {}))
    likely = st.sampled_from(
        [224, 8, [8, 8], "crop", "pad", "RGB", "L", "BGR", "bicubic", 0.5, [0.5, 0.5, 0.5], [1, 2]]
    )
    names = st.sampled_from([field.name for field in fields(known)])

    @settings(max_examples=150, deadline=None)
    @given(st.dictionaries(names, likely | JSON, max_size=4))
    def check(table):
        try:
            found = pre.settings(kind, table)
        except InputError:
            return
        assert pre.settings(kind, asdict(found)) == found
        assert pre.settings(kind, json.loads(json.dumps(asdict(found)))) == found  # as it travels in a manifest
        if kind == "image":
            assert PreSpec(kind, (), table, {}).open(()).sample(PIXELS).ndim == 3

    check()


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"fit": "squeeze"}, r"fit = 'squeeze'; it is one of stretch, crop, pad"),
        ({"size": [8]}, r"size = \[8\], shorter = 0: a height and a width in pixels"),
        ({"size": [8, 0]}, r"a height and a width"),
        ({"size": [8, 100000]}, r"a height and a width"),
        ({"size": 8}, r"the preprocessing 'image'"),
        ({"fit": "crop"}, r"fit = 'crop' needs a size"),
        ({"size": [8, 8], "fit": "crop", "shorter": 7}, r"at least as long as the size"),
        ({"size": [8, 8], "shorter": 9}, r"is for fit = 'crop'"),
        ({"shorter": ""}, r"shorter = ''; a number of pixels"),
        ({"mean": [0.1, 0.2]}, r"mean = \(0\.1, 0\.2\); it takes a number a channel, or one for all"),
        ({"std": [0.0]}, r"scale and std are above 0"),
        ({"scale": float("inf")}, r"scale and std are above 0"),
        ({"mean": [10**400]}, r"the preprocessing 'image': "),
        ({"fill": [256]}, r"numbers from 0 to 255"),
        ({"channels_first": 1}, r"true or false"),
        ({"colour": "RGB"}, r"unknown key of the preprocessing 'image' 'colour'; did you mean 'colours'\?"),
    ],
)
def test_settings_that_cannot_be_are_refused(table, says):
    with pytest.raises(InputError, match=says):
        pre.settings("image", table)


def test_what_inputs_tell_of_a_picture():
    assert pre.suited("image", [spec("n", 3, 8, 9)]).settings == {
        "size": [8, 9], "colours": "RGB", "channels_first": True, "input": "x",
    }  # fmt: skip
    found = pre.suited("image", [spec("n", "h", "w", 1), spec("n", 4, name="z")]).settings
    assert found == {"size": [], "colours": "L", "channels_first": False, "input": "x"}
    for inputs in ([], [spec("n", 5)], [spec("n", 3, 8, 8), spec("n", 3, 8, 8, name="z")]):
        with pytest.raises(InputError, match=r"do not tell which of them is a picture: say it in the recipe"):
            pre.suited("image", inputs)
    two = [spec("n", 3, 8, 8), spec("n", 3, 8, 8, name="z")]
    with pytest.raises(InputError, match=r"none, or more than one, is the picture: name input"):
        made("image", [], two)
    assert list(made("image", [PIXELS], two, size=[8, 8], input="z")) == ["z"]


def test_two_kinds_that_make_the_same_input_are_refused():
    twice = [PreSpec("image", (name,), {}, {}) for name in "ab"]
    with pytest.raises(InputError, match=r"two kinds of preprocessing make the same input: x, x"):
        Preprocessing(twice, [spec("n", 3, "h", "w")])


# --- pictures


def fitted(size, fit, shorter=0, filter_=Image.Resampling.BILINEAR, fill=0):
    """The same in Pillow's words."""
    one, (height, width) = Image.fromarray(PIXELS), size
    if fit == "stretch":
        return np.asarray(one.resize((width, height), filter_))
    if fit == "pad":
        ratio = min(width / 22, height / 13)
        inner = one.resize((round(22 * ratio), round(13 * ratio)), filter_)
        canvas = np.full((height, width, 3), fill, np.uint8)
        top, left = (height - inner.height) // 2, (width - inner.width) // 2
        canvas[top : top + inner.height, left : left + inner.width] = np.asarray(inner)
        return canvas
    ratio = max(width / 22, height / 13)
    larger = (int(shorter * 22 / 13), shorter) if shorter else (round(22 * ratio), round(13 * ratio))
    whole = np.asarray(one.resize(larger, filter_))
    top, left = (larger[1] - height) // 2, (larger[0] - width) // 2
    return whole[top : top + height, left : left + width]


@pytest.mark.parametrize("filter_", ["bilinear", "nearest", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize("size", [(8, 8), (7, 11), (26, 40)])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_picture_is_fitted_as_pillow_does(fit, size, filter_):
    found = picture(PIXELS, size=list(size), fit=fit, filter=filter_, channels_first=False, fill=[7], scale=1)
    right = fitted(size, fit, 0, Image.Resampling[filter_.upper()], 7)
    np.testing.assert_array_equal(found, right.astype(np.float32))


@pytest.mark.parametrize(("size", "shorter"), [((8, 8), 9), ((8, 8), 8), ((7, 7), 10)])
def test_the_middle_of_a_picture_whose_shorter_side_is_set(size, shorter):
    found = picture(PIXELS, size=list(size), fit="crop", shorter=shorter, channels_first=False, scale=1)
    np.testing.assert_array_equal(found, fitted(size, "crop", shorter).astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(
    st.tuples(*[st.integers(1, 3000)] * 2), st.tuples(*[st.integers(1, 600)] * 2),
    st.sampled_from(["stretch", "crop", "pad"]), st.integers(0, 50),
)  # fmt: skip
def test_a_picture_of_any_size_fills_its_input(own, size, fit, more):
    shorter = max(size) + more if fit == "crop" and more else 0
    geometry = Geometry.of(own, Settings(size=size, fit=fit, shorter=shorter))
    assert geometry.outer == (size[1], size[0])
    for inner, corner, outer in zip(geometry.inner, geometry.corner, geometry.outer, strict=True):
        if fit == "pad":
            assert 0 <= corner <= corner + inner <= outer
        else:
            assert corner <= 0 < outer <= corner + inner
    whole = geometry.boxes(np.array([[0, 0, *own, 3]]))[0]
    assert whole[4] == 3
    if fit != "pad":
        np.testing.assert_allclose(whole[:4], [0, 0, *geometry.outer], rtol=1e-9, atol=1e-9)


def test_numbers_and_their_order():
    mean, std = np.float32([0.4, 0.5, 0.6]), np.float32([0.1, 0.2, 0.3])
    scaled = PIXELS.astype(np.float32) * np.float32(1 / 255)
    given_ = {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.3]}
    np.testing.assert_array_equal(picture(PIXELS, **given_), ((scaled - mean) / std).transpose(2, 0, 1))
    turned = (scaled[:, :, ::-1] - mean) / std
    np.testing.assert_array_equal(picture(PIXELS, **given_, colours="BGR", channels_first=False), turned)
    grey = np.asarray(Image.fromarray(PIXELS).convert("L"), np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(picture(PIXELS, colours="L"), grey[None])
    padded = picture(PIXELS, size=[40, 22], fit="pad", fill=[1, 2, 3], colours="BGR", channels_first=False, scale=1)
    assert padded[0, 0].tolist() == [1, 2, 3]  # as `colours` has them
    half = picture(PIXELS, [spec("n", 3, "h", "w", dtype="float16")])
    assert half.dtype == np.float16


def test_a_model_that_takes_the_cameras_picture_is_given_it():
    frame = Frame(1 / 255, (0.5,), (0.5,), True)
    found = picture(PIXELS, [spec("n", 8, 8, 3, dtype="uint8", frame=frame)], size=[8, 8], mean=[0.5], std=[0.5])
    np.testing.assert_array_equal(found, fitted((8, 8), "stretch"))
    assert found.dtype == np.uint8
    plain = picture(PIXELS, [spec("n", 3, 8, 8, dtype="uint8")], size=[8, 8])
    np.testing.assert_array_equal(plain, fitted((8, 8), "stretch").transpose(2, 0, 1))


def encoded(one, form, **options):
    stream = io.BytesIO()
    one.save(stream, form, **options)
    return stream.getvalue()


def test_every_form_of_a_picture_is_the_same(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS), "PNG"))
    wanted = picture(PIXELS)
    for same in (str(path), path, path.read_bytes(), bytearray(path.read_bytes()), Image.fromarray(PIXELS),
                 np.array([str(path)], object), np.array([str(path)]), np.asfortranarray(PIXELS)):  # fmt: skip
        np.testing.assert_array_equal(picture(same), wanted)
    kept = Image.fromarray(PIXELS)
    picture(kept)
    assert kept.getpixel((0, 0)) == tuple(PIXELS[0, 0])  # the caller's is not closed


def test_pictures_of_other_modes_are_read_as_colours():
    red = Image.new("RGB", (9, 6), (250, 0, 0))
    others = {
        "palette": encoded(red.convert("P"), "PNG"), "cmyk": encoded(red.convert("CMYK"), "TIFF"),
        "alpha": encoded(red.convert("RGBA"), "PNG"),
        "transparent palette": encoded(red.convert("P"), "PNG", transparency=bytes([9] * 256)),
        "animated": encoded(red, "GIF", save_all=True, append_images=[Image.new("RGB", (9, 6), (0, 250, 0))]),
    }  # fmt: skip
    for name, content in others.items():
        found = picture(content, scale=1)
        assert found.shape == (3, 6, 9), name
        np.testing.assert_allclose(found[:, 3, 4], [250, 0, 0], atol=6, err_msg=name)
    np.testing.assert_array_equal(picture(PIXELS[:, :, 0], scale=1)[1], PIXELS[:, :, 0])  # grey
    np.testing.assert_array_equal(picture(PIXELS[:, :, :1], scale=1)[2], PIXELS[:, :, 0])


def test_a_camera_that_lay_on_its_side_is_believed_where_asked():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.fromarray(PIXELS), "PNG", exif=exif)
    assert picture(content).shape == (3, 13, 22)
    np.testing.assert_array_equal(picture(content, upright=True), picture(np.rot90(PIXELS, -1).copy()))
    reader = PreSpec("image", ("a",), {"upright": True, "size": [22, 13]}, {}).open(())
    np.testing.assert_allclose(reader.boxes(np.array([[0, 0, 13, 22, 1.0]]), content), [[0, 0, 13, 22, 1]])


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ("nowhere.jpg", r"nowhere\.jpg cannot be read as a picture: .*No such file"),
        (
            encoded(Image.fromarray(PIXELS), "JPEG")[:-120],
            r"a picture of \d+ bytes \(sha256 [0-9a-f]{8}\) cannot be read",
        ),
        (b"", r"a picture of 0 bytes"),
        (encoded(Image.fromarray(np.zeros((4, 4), np.uint16)), "PNG"), r"more than 8 bits a channel \(I;16\); convert"),
        (np.zeros((4, 4, 3), np.float32), r"uint8, \(height, width, channels\); got float32"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"got uint8 \(2, 4, 4, 3\)"),
        (np.zeros((4, 4, 7), np.uint8), r"a ndarray cannot be read as a picture"),
        (np.zeros((0, 4, 3), np.uint8), r"got uint8 \(0, 4, 3\)"),
        (3, r"a picture is a path, bytes, a uint8 array or Pillow's; got a int"),
    ],
)
def test_what_is_no_picture_is_refused(raw, says):
    with pytest.raises(InputError, match=says):
        picture(raw, size=[8, 8])


def test_a_truncated_file_is_closed_and_refused(tmp_path):
    path = tmp_path / "half.jpg"
    content = encoded(Image.fromarray(PIXELS), "JPEG")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"half\.jpg cannot be read as a picture"):
        picture(path)


def test_pictures_of_several_sizes_make_no_batch():
    with pytest.raises(InputError, match=r"the pictures have 2 sizes, .* say: give a size to fit to"):
        made("image", [PIXELS, PIXELS[:5]])


# --- text


@pytest.fixture
def tokenizer(tmp_path):
    """Words are their numbers; [CLS] and [SEP] around them, as BERT has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(50))]
    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    found.enable_padding(length=40)  # which is not what a model takes here
    found.save(str(tmp_path / "tokenizer.json"))
    return {"tokenizer": str(tmp_path / "tokenizer.json")}


BERT = [spec("n", "t", name=name, dtype="int64") for name in ("input_ids", "attention_mask", "token_type_ids")]


def test_a_text_and_a_pair(tokenizer):
    found = made("text", ["w0 w1", ("w2", "w3 w4")], BERT, files=tokenizer)
    np.testing.assert_array_equal(found["input_ids"], [[2, 4, 5, 3, 0, 0], [2, 6, 3, 7, 8, 3]])
    np.testing.assert_array_equal(found["attention_mask"], [[1, 1, 1, 1, 0, 0], [1] * 6])
    np.testing.assert_array_equal(found["token_type_ids"], [[0] * 6, [0, 0, 0, 1, 1, 1]])
    assert {value.dtype.name for value in found.values()} == {"int64"}


def test_padding_goes_to_the_first_length_that_holds_a_batch(tokenizer):
    for words, length in ((1, 4), (2, 4), (3, 8), (6, 8), (9, 12), (40, 12)):
        found = made("text", ["w1 " * words], BERT, files=tokenizer, max_length=12, lengths=[4, 8])
        assert found["input_ids"].shape == (1, length)
        assert found["attention_mask"].sum() == min(words + 2, 12)
        assert found["input_ids"][0, min(words, 10) + 1] == 3  # [SEP] is not cut off


def test_padding_on_the_left(tokenizer):
    found = made("text", ["w0", "w0 w1 w2"], BERT[:2], files=tokenizer, left=True)
    np.testing.assert_array_equal(found["input_ids"], [[0, 0, 2, 4, 3], [2, 4, 5, 6, 3]])
    np.testing.assert_array_equal(found["attention_mask"], [[0, 0, 1, 1, 1], [1] * 5])


def test_inputs_that_a_model_has_not_are_not_made(tokenizer):
    ids = spec("n", "t", name="tokens", dtype="int32")
    found = made("text", ["w0"], [ids, spec("n", 4)], files=tokenizer, ids="tokens")
    assert {name: value.dtype.name for name, value in found.items()} == {"tokens": "int32"}
    with pytest.raises(InputError, match=r"the model has no input 'input_ids' for tokens; its inputs are tokens"):
        made("text", ["w0"], [ids], files=tokenizer)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"max_length": 0}, r"max_length = 0; a number of tokens"),
        ({"max_length": 1.5}, r"max_length = 1\.5"),
        ({"lengths": [8, 4]}, r"they ascend, up to max_length = 128"),
        ({"lengths": [256]}, r"they ascend, up to max_length = 128"),
        ({"lengths": 4}, r"lengths = 4; they ascend"),
        ({"pad": "<pad>"}, r"the tokenizer has no token '<pad>' to pad with; name its own: pad = \.\.\."),
        ({"ids": ""}, r"pad, ids, mask and types are names"),
        ({"left": "yes"}, r"left = 'yes'; true or false"),
    ],
)
def test_settings_of_text_that_cannot_be_are_refused(table, says, tokenizer):
    with pytest.raises(InputError, match=says):
        made("text", [], BERT, files=tokenizer, **table)


def test_what_is_no_text_or_no_tokenizer_is_refused(tokenizer, tmp_path):
    for raw, says in ((5, r"got int"), (("w0", "w1", "w2"), r"got str, str, str"), (b"w0", r"got bytes")):
        with pytest.raises(InputError, match=rf"a text was expected, or a pair; {says}"):
            made("text", [raw], BERT, files=tokenizer)
    for files, says in (
        ({}, r"needs tokenizer = "), ({"tokenizer": str(tmp_path / "no.json")}, r"no such file: .*no\.json"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=says):
            made("text", [], BERT, files=files)
    (tmp_path / "odd.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match=r"odd\.json is no tokenizer\.json that tokenizers can read"):
        made("text", [], BERT, files={"tokenizer": str(tmp_path / "odd.json")})
    with pytest.raises(InputError, match=r"name its tokenizer in the recipe"):
        pre.suited("text", BERT)


@pytest.mark.parametrize(("kind", "module"), [("image", "PIL.Image"), ("text", "tokenizers"), ("audio", "soundfile")])
def test_without_its_library_a_kind_names_the_extra(kind, module, tokenizer, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    monkeypatch.setattr(engines, "SILENT", {})
    files = tokenizer if kind == "text" else {}
    with pytest.raises(EngineMissing, match=rf"pip install 'edge-optimize\[{kind}\]'"):
        PreSpec(kind, ("a",), {}, files).open(())
