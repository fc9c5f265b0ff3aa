"""Models of Keras 3 on its torch backend: the file says what the model says, and no code of a file's is run unasked."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from optimize import sources
from optimize.flags import random_feeds
from optimize.models import read_onnx
from optimize.sources import ModelSpec
from runtime import engines, host
from runtime.contender import Worker
from runtime.errors import EngineMissing, InputError
from runtime.tensors import TensorSpec

with patch.dict(os.environ, KERAS_BACKEND="torch"):
    keras = pytest.importorskip("keras", reason="pip install 'edge-optimize[keras]'")
layers = keras.layers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path_factory.getbasetemp() / "cache of keras"))


def load(place, **more):
    return sources.load(ModelSpec("keras", str(place), **more))


def agree(original, wanted, feeds):
    """The original and its file give what the model gave."""
    specs = read_onnx(original.model).specs
    session = engines.get("onnxruntime").open({"model": original.model}, specs, host.facts(), {})
    assert [(one.name, one.dtype) for one in specs.inputs] == [(one.name, one.dtype) for one in original.inputs]
    for got in (original.open().run(feeds), session.run(feeds)):
        assert set(got) == set(wanted)
        for name, value in wanted.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A trained network of pictures with channels last, and what it learned from."""
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    x = (pictures.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="picture"),
            layers.Conv2D(16, 3, padding="same", use_bias=False),
            layers.BatchNormalization(momentum=0.8),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.SeparableConv2D(32, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.1),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.learning_rate = 0.01
    model.fit(x, labels, batch_size=128, epochs=3, verbose=0)
    path = tmp_path_factory.mktemp("digits") / "model.keras"
    model.save(path)
    return path, x, labels


def test_a_trained_sequence_of_layers(digits):
    path, x, labels = digits
    assert sources.detect(str(path)) == "keras"
    original = load(path)
    assert original.inputs == (TensorSpec("picture", "float32", ("batch", 8, 8, 1)),)
    wanted = keras.saving.load_model(path).predict(x, verbose=0)
    agree(original, {"output": wanted}, {"picture": x})
    assert (wanted.argmax(1) == labels).mean() > 0.5
    assert "Keras" in original.notes[0]


def test_the_original_runs_in_a_process_of_its_own(digits):
    path, x, _ = digits
    code = (
        "import os, sys; from optimize import sources; sources.load(sources.ModelSpec('keras', sys.argv[1]));"
        "assert 'KERAS_BACKEND' not in os.environ; assert 'tensorflow' not in sys.modules"
    )
    bare = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=bare, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with Worker.start(ModelSpec("keras", str(path)).contender(), {"picture": x[:5]}) as worker:
        np.testing.assert_allclose(
            worker.outputs["output"], load(path).open().run({"picture": x[:5]})["output"], atol=1e-6
        )


def test_several_inputs_and_outputs_keep_their_names(tmp_path):
    keras.utils.set_random_seed(0)
    numbers, tokens = keras.Input((8,), name="numbers"), keras.Input((6,), dtype="int32", name="tokens")
    words = layers.GlobalAveragePooling1D()(layers.Embedding(10, 4)(tokens))
    both = layers.Concatenate()([layers.Dense(4, activation="gelu")(numbers), words])
    outputs = {"score": layers.Dense(3)(both), "mean": layers.Dense(1, activation="sigmoid")(both)}
    model = keras.Model({"tokens": tokens, "numbers": numbers}, outputs)
    model.save(tmp_path / "model.keras")
    original = load(tmp_path / "model.keras")
    assert {one.name: str(one.dtype) for one in original.inputs} == {"numbers": "float32", "tokens": "int32"}
    feeds = random_feeds(original.inputs, 5)
    agree(original, {name: value.detach().numpy() for name, value in model(feeds).items()}, feeds)


def test_a_length_that_is_open_stays_open(tmp_path):
    text = keras.Input((None, 12), name="text")
    joined = layers.LayerNormalization()(layers.MultiHeadAttention(2, 6)(text, text) + text)
    model = keras.Model(text, [layers.Dense(2, name="kind")(joined[:, 0]), layers.Dense(3, name="tags")(joined)])
    model.save(tmp_path / "model.keras")
    original = load(tmp_path / "model.keras")
    assert original.inputs == (TensorSpec("text", "float32", ("batch", "text_1", 12)),)
    for batch, length in ((1, 3), (4, 20)):
        feeds = {"text": np.random.default_rng(0).normal(size=(batch, length, 12)).astype(np.float32)}
        wanted = dict(zip(("kind", "tags"), (value.detach().numpy() for value in model(feeds["text"])), strict=True))
        agree(original, wanted, feeds)


def test_a_callable_may_return_a_model_with_layers_of_its_own(tmp_path):
    (tmp_path / "model.py").write_text(
        "import keras\n"
        "class Twice(keras.layers.Layer):\n    def call(self, x):\n        return x * 2\n"
        "class Own(keras.Model):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = Twice()\n"
        "    def call(self, x):\n        return self.layer(x) + 1\n"
        "def build():\n    return Own()\n"
        "def other():\n    return 3\n"
    )
    place = f"{tmp_path}/model.py:build"
    x = np.eye(4, dtype=np.float32)
    agree(load(place, inputs=(TensorSpec("x", "float32", ("batch", 4)),)), {"output": x * 2 + 1}, {"x": x})
    with pytest.raises(InputError, match=r"does not say what it takes: give \[model\.inputs\.NAME\]"):
        load(place)
    with pytest.raises(InputError, match=r"returned a int, not a keras\.Model"):
        load(f"{tmp_path}/model.py:other")


def test_code_in_a_file_is_not_run_without_trust(tmp_path):
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2)]).save(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"has a Lambda layer, code that runs when it is read: --trust"):
        load(tmp_path / "model.keras")
    x = np.eye(4, dtype=np.float32)
    original = load(tmp_path / "model.keras", trust=True)
    agree(original, {"output": x * 2}, {original.inputs[0].name: x})


def test_a_layer_that_is_not_of_keras_is_named(tmp_path):
    @keras.saving.register_keras_serializable("mine")
    class Mine(layers.Layer):
        def call(self, x):
            return x

    keras.Sequential([keras.Input((4,)), Mine()]).save(tmp_path / "model.keras")
    del keras.saving.get_custom_objects()["mine>Mine"]
    with pytest.raises(InputError, match=r"has 'Mine', which is not of Keras: give file\.py:callable"):
        load(tmp_path / "model.keras")


def test_an_op_that_cannot_be_exported_is_named(tmp_path):
    (tmp_path / "model.py").write_text(
        "import keras, torch\n"
        "class Odd(keras.layers.Layer):\n    def call(self, x):\n        return torch.special.airy_ai(x)\n"
        "def build():\n    return keras.Sequential([keras.Input((4,)), Odd()])\n"
    )
    with pytest.raises(InputError, match=r"cannot be exported to ONNX: .*airy_ai"):
        load(f"{tmp_path}/model.py:build")


def test_files_that_cannot_be_read_say_why(digits, tmp_path):
    path, _, _ = digits
    half = tmp_path / "half.keras"
    half.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"half\.keras is no \.keras file, or not all of it is here"):
        load(half)
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme", "a zip of something else")
    with pytest.raises(InputError, match=r"other\.keras is no \.keras file"):
        load(tmp_path / "other.keras")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new.keras", "w") as new:
        for name in old.namelist():
            content = old.read(name).replace(b'"3.', b'"9.') if name == "metadata.json" else old.read(name)
            new.writestr(name, content.replace(b'"Dense"', b'"Denser"'))
    with pytest.raises(InputError, match=r"new\.keras.*(made by Keras 9\.\d+|Denser)"):
        load(tmp_path / "new.keras")
    (tmp_path / "old.h5").write_bytes(b"")
    with pytest.raises(InputError, match=r"old\.h5 is of the format before Keras 3: .*save\('old\.keras'\)"):
        load(tmp_path / "old.h5")
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "nowhere.keras")
    with pytest.raises(InputError, match=r"holds its own weights; leave out w\.pth"):
        load(path, weights="w.pth")


def test_keras_that_is_missing_or_has_another_backend(digits, monkeypatch):
    path, _, _ = digits
    with monkeypatch.context() as patched:
        patched.setattr(keras.config, "backend", lambda: "jax")
        with pytest.raises(InputError, match=r"has its jax backend in this process; set KERAS_BACKEND=torch"):
            load(path)
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(EngineMissing, match=r"pip install 'edge-optimize\[keras\]'"):
        load(path)
