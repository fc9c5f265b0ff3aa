"""Models of TensorFlow, made and run in processes of their own: the file says what TensorFlow says."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from optimize import foreign, inspection, sources
from optimize.models import read_onnx
from optimize.sources import ModelSpec
from runtime import engines, host
from runtime.contender import Worker
from runtime.errors import EngineMissing, InputError
from runtime.tensors import TensorSpec

NEEDED = find_spec("tensorflow") and find_spec("tf2onnx")
needs_tensorflow = pytest.mark.skipif(not NEEDED, reason="pip install 'edge-optimize[tensorflow]'")

MAKE = """
import sys
import numpy as np, tensorflow as tf
from sklearn.datasets import load_digits
x, y = load_digits(return_X_y=True)
x = (x.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
tf.random.set_seed(0)

class Digits(tf.Module):
    def __init__(self):
        self.kernel = tf.Variable(tf.random.normal([3, 3, 1, 16], stddev=0.3))
        self.last = tf.Variable(tf.random.normal([16 * 16, 10], stddev=0.1))

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="picture")])
    def answer(self, picture):
        found = tf.nn.relu(tf.nn.conv2d(picture, self.kernel, 2, "SAME"))
        return {"scores": tf.reshape(found, [-1, 16 * 16]) @ self.last}

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([None, 4])])
    def two(self, b, a):
        return {"first": b - 2 * a, "second": tf.reduce_sum(a * b, 1)}

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def bessel(self, x):
        return {"y": tf.math.bessel_i0(x)}

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def python(self, x):
        return {"y": tf.numpy_function(lambda value: value, [x], tf.float32)}

model = Digits()
for step in range(60):
    with tf.GradientTape() as tape:
        answers = model.answer(x[step % 8 :: 8])["scores"]
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y[step % 8 :: 8], answers))
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, model.trainable_variables)):
        variable.assign_sub(0.5 * gradient)
for name in ("answer", "two", "bessel", "python"):
    only = tf.Module()  # so that what is not asked for is not in the folder
    only.variables_of_it = [model.kernel, model.last]
    tf.saved_model.save(only, f"{sys.argv[1]}/{name}", {name: getattr(model, name)})
tf.saved_model.save(tf.Module(), sys.argv[1] + "/several", {"one": model.two, "other": model.bessel})
converter = tf.lite.TFLiteConverter.from_saved_model(sys.argv[1] + "/answer", signature_keys=["answer"])
open(sys.argv[1] + "/float.tflite", "wb").write(converter.convert())
converter.optimizations = [tf.lite.Optimize.DEFAULT]
converter.representative_dataset = lambda: ([one[None]] for one in x[:100])
converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
converter.inference_input_type = converter.inference_output_type = tf.int8
open(sys.argv[1] + "/int8.tflite", "wb").write(converter.convert())
np.savez(sys.argv[1] + "/digits.npz", picture=x, y=y)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A trained network as a SavedModel, as .tflite in float and in int8, and some that cannot be converted."""
    folder = tmp_path_factory.mktemp("tensorflow")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MAKE, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path_factory.getbasetemp() / "cache of tensorflow"))


def load(place, **more):
    return sources.load(ModelSpec("tensorflow", str(place), **more))


def both(path: Path, feeds, **more):
    """What TensorFlow says in a process of its own, and what the file says."""
    original = load(path)
    specs = read_onnx(original.model).specs
    session = engines.get("onnxruntime").open({"model": original.model}, specs, host.facts(), {})
    with Worker.start(ModelSpec("tensorflow", str(path), **more).contender(), feeds) as worker:
        assert worker.use()["threads"] >= 1
        return original, dict(worker.outputs), session.run(feeds)


@needs_tensorflow
@pytest.mark.parametrize("name", ["answer", "float.tflite"])
def test_a_model_in_float(name, made):
    digits = np.load(made / "digits.npz")
    assert sources.detect(str(made / name)) == "tensorflow"
    original, wanted, got = both(made / name, {"picture": digits["picture"]}, threads=1)
    assert original.inputs == (TensorSpec("picture", "float32", ("batch", 8, 8, 1)),)
    (output,) = wanted
    np.testing.assert_allclose(got[output], wanted[output], rtol=1e-3, atol=1e-4)
    assert (got[output].argmax(1) == digits["y"]).mean() > 0.7
    assert name == "float.tflite" or output == "scores"
    assert "tensorflow" not in sys.modules


@needs_tensorflow
def test_a_model_that_is_quantized_already_brings_its_rounding(made):
    digits = np.load(made / "digits.npz")
    picture = np.round(digits["picture"] * 255 - 128).astype(np.int8)
    original, wanted, got = both(made / "int8.tflite", {"picture": picture})
    assert original.inputs[0].dtype == "int8"
    (output,) = wanted
    assert wanted[output].dtype == got[output].dtype == np.float32
    assert (got[output].argmax(1) == digits["y"]).mean() > 0.7
    assert (wanted[output].argmax(1) == got[output].argmax(1)).mean() > 0.99
    assert any("quantized already" in note for note in original.notes)
    assert inspection.inspect(str(made / "int8.tflite"), None, False)["quantized"][0] != "0"


@needs_tensorflow
def test_inputs_and_outputs_keep_their_names_and_a_folder_is_told_from_a_bundle(made):
    random = np.random.default_rng(0)
    feeds = {name: random.normal(size=(3, 4)).astype(np.float32) for name in ("a", "b")}
    original, wanted, got = both(made / "two", feeds)
    assert {one.name for one in original.inputs} == {"a", "b"}
    np.testing.assert_allclose(wanted["first"], feeds["b"] - 2 * feeds["a"], rtol=1e-5)
    for name in ("first", "second"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-5)
    contender, inputs, *_ = foreign.contestant(str(made / "two"), (), None, False, {}, {})
    assert contender.opener == "optimize.sources:open_original"
    assert inputs == original.inputs
    with pytest.raises(InputError, match=r"two takes a: .*; \[model\.inputs\] names other ones"):
        load(made / "two", inputs=(TensorSpec("x", "float32", (1, 4)),))


@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bessel", r"has no op for BesselI0"),
        ("python", r"has PyFunc, which run code or touch files: --trust"),
        ("several", r"has the signatures one, other; one of them must be serving_default"),
    ],
)
def test_what_cannot_be_converted_is_named(name, words, made):
    with pytest.raises(InputError, match=rf"{name}.*{words}"):
        load(made / name)


@needs_tensorflow
def test_half_a_model_is_refused(made, tmp_path):
    half = tmp_path / "half.tflite"
    half.write_bytes((made / "float.tflite").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"half\.tflite"):
        load(half)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes((made / "answer" / "saved_model.pb").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"saved.*cannot be read"):
        load(tmp_path / "saved")


def test_what_is_no_model_is_said_without_tensorflow(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "nowhere.tflite")
    with pytest.raises(InputError, match="no folder of a SavedModel"):
        load(tmp_path)
    (tmp_path / "model.tflite").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds its own weights; leave out w\.pth"):
        load(tmp_path / "model.tflite", weights="w.pth")


def test_tensorflow_that_is_missing_names_the_extra(tmp_path, monkeypatch):
    hidden = tmp_path / "hidden"  # found before TensorFlow where it is installed, in processes of its own too
    hidden.mkdir()
    (hidden / "tensorflow.py").write_text("raise ModuleNotFoundError('no such module', name='tensorflow')")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(hidden), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    )
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    (tmp_path / "model.tflite").write_bytes(b"")
    with pytest.raises(EngineMissing, match=r"pip install 'edge-optimize\[tensorflow\]'"):
        load(tmp_path / "model.tflite")
