"""A model that is given raw samples, of which its bundle makes inputs; from Python and from a device's command."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime import InputError, writer
from runtime.__main__ import main
from runtime.bundle import Fallback
from runtime.pre import PreSpec
from runtime.tensors import Specs, TensorSpec

pytest.importorskip("onnxruntime", reason="pip install 'edge-optimize[onnxruntime]'")
Image = pytest.importorskip("PIL.Image", reason="pip install 'edge-optimize[image]'")
pytest.importorskip("tokenizers", reason="pip install 'edge-optimize[text]'")

TEXTS = Path(__file__).parent / "bundles" / "3"
SPECS = Specs((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), (TensorSpec("output", "float32", ("batch", 5)),))


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_onnx):
    """`tiny_onnx` with a preprocessing of pictures, whose column is called as the input is."""
    folder = tmp_path_factory.mktemp("raw") / "bundle"
    writer.write(
        folder, name="tiny", specs=SPECS, engines=(), axes={"batch": {"min": 1, "best": 1, "max": 4}}, made_with={},
        fallback=Fallback({"model": str(tiny_onnx)}, {"onnxruntime": {"threads": 1}}),
        pre=[PreSpec("image", ("image",), {"size": [8, 8], "mean": [0.5], "std": [0.25]}, {})],
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def model(place):
    with runtime.load(place) as found:
        yield found


@pytest.fixture
def texts():
    with runtime.load(TEXTS, engine="fallback on onnxruntime") as found:
        yield found


@pytest.fixture
def pictures(tmp_path):
    """Three pictures' pixels, and their files."""
    pixels = [np.random.default_rng(i).integers(0, 256, (12, 9, 3), np.uint8) for i in range(3)]
    for i, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{i}.png")
    return pixels, [str(tmp_path / f"{i}.png") for i in range(3)]


def fitted(pixels):
    small = np.asarray(Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR), np.float32)
    return ((small * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.25)).transpose(2, 0, 1)[None]


def test_a_picture_is_called_in_every_form(model, pictures):
    pixels, files = pictures
    wanted = model(fitted(pixels[0]))
    np.testing.assert_array_equal(model.prepare(files[0])["image"], fitted(pixels[0]))
    with Image.open(files[0]) as opened:
        opened.load()
    for same in (pixels[0], files[0], Path(files[0]), Path(files[0]).read_bytes(), opened, {"image": files[0]},
                 {"image": pixels[0]}, np.array([files[0]], object)):  # fmt: skip
        np.testing.assert_array_equal(model(same), wanted)
    np.testing.assert_array_equal(model({"image": fitted(pixels[0])}), wanted)


def test_a_list_is_a_batch(model, pictures):
    pixels, files = pictures
    wanted = np.concatenate([fitted(one) for one in pixels])
    for same in (files, list(pixels), np.array(files, object), np.array(files)):
        np.testing.assert_array_equal(model.prepare(same)["image"], wanted)
    np.testing.assert_array_equal(model(files), model(wanted))


def test_out_submit_and_map_take_raw_samples(model, pictures):
    pixels, files = pictures
    wanted = [model(fitted(one)) for one in pixels]
    out = np.empty((1, 5), np.float32)
    assert model(files[0], out=out) is out
    np.testing.assert_array_equal(out, wanted[0])
    np.testing.assert_array_equal(model.submit(files[1]).result(), wanted[1])
    for batch in (1, 2):
        for found, right in zip(model.map(iter(files), batch=batch), wanted, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)
    mixed = list(model.map([files[0], fitted(pixels[1]), {"image": pixels[2]}], batch=3))
    np.testing.assert_allclose(mixed, wanted, rtol=1e-5, atol=1e-6)


def test_submitted_raw_samples_are_joined(place, pictures):
    pixels, files = pictures
    with runtime.load(place, max_batch=3, max_delay_ms=50) as model:
        answers = [one.result() for one in [model.submit(file) for file in files]]
        for found, one in zip(answers, pixels, strict=True):
            np.testing.assert_allclose(found, model(fitted(one)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("nowhere.png",), r"nowhere\.png cannot be read as a picture"),
        ((b"no picture",), r"a picture of 10 bytes \(sha256 [0-9a-f]{8}\) cannot be read as a picture"),
        (([],), r"there is no raw sample"),
        ((), r"a raw sample has image; got 0"),
        (("a.png", "b.png"), r"a raw sample has image; got 2"),
        (({"picture": "a.png"},), r"a raw sample has image; got picture"),
        ((7,), r"a picture is a path, bytes, a uint8 array or Pillow's; got a int"),
        ((np.zeros((1, 3, 8, 8)),), r"float64"),
        (
            (np.zeros((3, 8, 8), np.float32),),
            r"a picture is uint8, \(height, width, channels\); got float32 \(3, 8, 8\)",
        ),
    ],
)
def test_what_is_no_raw_sample_is_refused(args, says, model):
    with pytest.raises(InputError, match=says):
        model(*args)


def test_a_model_without_preprocessing_says_so(place):
    with (
        runtime.load(TEXTS.parent / "2") as model,
        pytest.raises(InputError, match=r"this bundle has no preprocessing"),
    ):
        model.prepare("a.png")


def test_text_is_made_of_the_bundles_own_tokenizer(texts):
    ids = texts.prepare("one three")["x"]
    np.testing.assert_array_equal(ids, [[1, 3, 0]])
    assert ids.dtype == np.float32
    np.testing.assert_array_equal(texts("one three"), texts(ids))
    np.testing.assert_array_equal(texts(["one three", "two"]), texts(np.concatenate([ids, texts.prepare("two")["x"]])))
    with pytest.raises(InputError, match=r"a text was expected, or a pair; got bytes"):
        texts(b"one three")


# --- python -m runtime


def test_the_command_runs_on_a_picture(place, model, pictures, tmp_path, capsys):
    pixels, files = pictures
    out = tmp_path / "answers.npz"
    assert main(["run", str(place), "--input", files[0], "--output", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outputs"] == {"output": "float32[1, 5]"}
    with np.load(out) as found:
        np.testing.assert_array_equal(found["output"], model(fitted(pixels[0])))
    np.savez(tmp_path / "x.npz", image=fitted(pixels[0]))
    assert main(["run", str(place), "--input", str(tmp_path / "x.npz"), "--output", str(out)]) == 0


def test_the_command_runs_on_a_text_or_a_file_of_it(texts, tmp_path, capsys):
    out = tmp_path / "answers.npz"
    (tmp_path / "text.txt").write_text("one three\n")
    for given in (["--text", "one three"], ["--input", str(tmp_path / "text.txt")]):
        assert main(["run", str(TEXTS), *given, "--output", str(out), "--engine", "fallback on onnxruntime"]) == 0
        with np.load(out) as found:
            np.testing.assert_array_equal(found["y"], texts("one three"))


def test_the_command_refuses_what_is_no_raw_sample(place, tmp_path, capsys):
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x00")
    for arguments, says in (
        (["run", place, "--input", tmp_path / "none.png"], r"none\.png cannot be read as a picture"),
        (["run", place, "--text", "a"], r"a raw sample of this bundle has image \(image\): give as many texts"),
        (["run", TEXTS, "--text", "a", "b"], r"a raw sample of this bundle has text \(text\)"),
        (["run", TEXTS, "--text", "a", "--input", "a.png"], r"a raw sample of this bundle has text \(text\)"),
        (["run", TEXTS, "--input", tmp_path / "odd.txt"], r"odd\.txt cannot be read as text"),
        (["run", TEXTS.parent / "2", "--text", "a"], r"this bundle has no preprocessing, and takes no text"),
        (["bench", place, "--input", tmp_path / "none.png"], r"none\.png cannot be read as a picture"),
    ):
        assert main([str(one) for one in arguments]) == 2
        assert re.search(says, capsys.readouterr().err)
