"""Commands as a user calls them: bad input gets one message and exit code 2, and leaves nothing behind."""

import inspect
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import targets
from optimize.cli import app, cli

MODEL = """
import torch
from torch import nn


def build():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*features, nn.Linear(8, 5))


def raising():
    raise ValueError("no such layer")


def other():
    return nn.Linear(3, 3)


def nothing():
    return 3


def broken():
    net = build()
    net[4].weight.data[:] = float("nan")
    return net
"""


@pytest.fixture
def place(tmp_path, monkeypatch, tiny_data):
    pytest.importorskip("torch", reason="pip install 'edge-optimize[all]'")
    x, y = tiny_data
    (tmp_path / "model.py").write_text(MODEL)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(monkeypatch, capfd):
    """Run the command line in this process: (exit code, stdout, stderr)."""

    def run(*words: str):
        monkeypatch.setattr(sys, "argv", ["optimize", *map(str, words)])
        code = app()
        seen = capfd.readouterr()
        return code, seen.out, seen.err

    return run


def save(**arrays):
    np.savez("bad.npz", **arrays)
    return "bad.npz"


def refused(call, *words, says):
    """Exit code 2, one error line that says all of `says`, no trace, and no output folder."""
    code, out, err = call(*words)
    errors = [line for line in err.splitlines() if line.startswith("error:")]
    assert code == 2, (out, err)
    assert len(errors) == 1 and "Traceback" not in out + err, err
    for part in [says] if isinstance(says, str) else says:
        assert part in errors[0], errors[0]
    assert not Path("optimized").exists()


def test_no_such_model(place, call):
    refused(call, "run", "absent.onnx", "--data", "data.npz", says="no such file: ")


def test_no_such_recipe(place, call):
    refused(call, "run", "absent.toml", says="absent.toml cannot be read")


def test_no_data_named(place, call):
    refused(call, "run", "model.py:build", says="--data data.npz")


def test_no_such_data(place, call):
    refused(call, "run", "model.py:build", "--data", "absent.npz", says="no such file: ")


def test_neither_model_nor_recipe(place, call):
    refused(call, "run", "data.npz", "--data", "data.npz", says=["an .onnx file", "file.py:callable"])


def test_entry_point_not_there(place, call):
    refused(call, "run", "model.py:biuld", "--data", "data.npz", says=["has no 'biuld'", "did you mean 'build'"])


def test_entry_point_raises(place, call):
    refused(call, "run", "model.py:raising", "--data", "data.npz", says=["raised ValueError", "no such layer"])


def test_entry_point_gives_no_module(place, call):
    refused(call, "run", "model.py:nothing", "--data", "data.npz", says="returned a int, not a torch.nn.Module")


def test_weights_that_do_not_fit_name_five_keys(place, call):
    import torch

    from optimize.usercode import load_callable

    torch.save(load_callable("model.py:other", "model")().state_dict(), "other.pth")
    words = ("run", "model.py:build", "--data", "data.npz", "--weights", "other.pth")
    refused(call, *words, says=["does not fit the model; 6 keys differ", "0.weight is missing"])
    _, _, err = call(*words)
    assert err.count(" is missing") + err.count("is not in the model") + err.count("in the file") == 5


def test_checkpoint_that_needs_unpickling(place, call):
    import torch

    torch.save(torch.nn.Linear(3, 3), "whole.pth")
    words = ("run", "model.py:build", "--data", "data.npz", "--weights", "whole.pth")
    refused(call, *words, says=["torch.save(model.state_dict()", "--trust"])


@pytest.mark.parametrize("content", [b"", b"not an onnx file", b"\x08\x07\x12\x04half"])
def test_corrupt_or_empty_onnx(place, call, content):
    Path("bad.onnx").write_bytes(content)
    refused(call, "run", "bad.onnx", "--data", "data.npz", says="is not an ONNX model")


def test_npz_with_wrong_keys(place, call, tiny_onnx):
    data = save(picture=np.zeros((4, 3, 8, 8), np.float32), mask=np.zeros((4, 2), np.float32), y=np.zeros(4, int))
    refused(call, "run", tiny_onnx, "--data", data, says=["got inputs ['mask', 'picture']", "image: float32"])


def test_npz_with_wrong_shape(place, call, tiny_onnx):
    data = save(x=np.zeros((8, 3, 9, 9), np.float32), y=np.zeros(8, int))
    refused(call, "run", tiny_onnx, "--data", data, says=["'calibrate'", "(3, 3, 9, 9)", "image: float32"])


def test_npz_with_wrong_dtype(place, call, tiny_onnx):
    data = save(x=np.zeros((8, 3, 8, 8), np.uint8), y=np.zeros(8, int))
    refused(call, "run", tiny_onnx, "--data", data, says=["uint8", "astype('float32')"])


def test_torch_model_that_does_not_take_the_data(place, call):
    data = save(x=np.zeros((8, 4, 8, 8), np.float32), y=np.zeros(8, int))
    refused(call, "run", "model.py:build", "--data", data, says=["the original does not run on the data", "4 channels"])


def test_labels_outside_the_classes(place, call, tiny_data):
    x, y = tiny_data
    data = save(x=x, y=np.where(np.arange(len(y)) == 50, 7, y))
    refused(call, "run", "model.py:build", "--data", data, says=["label 7 is outside", "0 to 4"])


def test_nan_in_the_data(place, call, tiny_data):
    x, y = tiny_data
    x = x.copy()
    x[7, 0, 0, 0] = np.nan
    refused(call, "run", "model.py:build", "--data", save(x=x, y=y), says="NaN or infinity in 'x', first in sample")


QUICK = ("--target", "onnxruntime", "--quick")


def test_data_of_one_class(call, place, tiny_onnx, tiny_data):
    ones = save(image=tiny_data[0], y=np.ones(64, np.int64))
    code, out, err = call("eval", tiny_onnx, tiny_onnx, "--data", ones, "--split", "all", "--json")
    assert code == 0, err
    assert json.loads(out)["samples"] == 64
    refused(call, "eval", tiny_onnx, "--data", ones, "--metric", "roc_auc", says="roc_auc")


@pytest.mark.parametrize("samples", [0, 1])
def test_data_of_too_few_samples(place, call, tiny_data, samples):
    few = save(x=tiny_data[0][:samples], y=tiny_data[1][:samples])
    refused(call, "run", "model.py:build", "--data", few, *QUICK, says="sample")


def test_three_samples_tell_nothing_and_it_says_so(place, call, tiny_onnx, tiny_data):
    few = save(image=tiny_data[0][:3], y=tiny_data[1][:3])
    code, out, err = call("eval", tiny_onnx, tiny_onnx, "--data", few, "--split", "all", "--json")
    assert code == 0, err
    (row,) = [row for row in json.loads(out)["models"].values() if row["status"] == "measured"]
    assert row["verdict"] == "cannot tell" and row["samples_that_tell"] > 3


def test_data_without_labels(place, call, tiny_onnx, tiny_data):
    code, out, err = call("eval", tiny_onnx, tiny_onnx, "--data", save(image=tiny_data[0]), "--json")
    assert code == 0, err
    assert json.loads(out)["metric"] == "agreement"


@pytest.mark.parametrize(
    ("body", "says"),
    [("raise ZeroDivisionError('no digits')", "no digits"), ("return float('nan')", "metric.py:score")],
)
def test_a_metric_that_fails(place, call, body, says):
    (place / "metric.py").write_text(f"def score(outputs, labels):\n    {body}\n")
    refused(call, "run", "model.py:build", "--data", "data.npz", "--metric", "metric.py:score", "--better", "higher",
            *QUICK, says=says)  # fmt: skip


def test_original_that_gives_nan(place, call):
    refused(call, "run", "model.py:broken", "--data", "data.npz", says="the original itself gives NaN")


def test_empty_split(place, call, tiny_data):
    x, y = tiny_data
    parts = {f"{key}_{name}": v for name in ("calibrate", "validate") for key, v in (("x", x), ("y", y))}
    data = save(**parts, x_test=x[:0], y_test=y[:0])
    refused(call, "run", "model.py:build", "--data", data, says="'test' is empty")


def test_unknown_target(place, call):
    words = ("run", "model.py:build", "--data", "data.npz", "--target", "openvnio")
    refused(call, *words, says="did you mean 'openvino'")


def test_targets_of_which_none_runs_here(place, call, monkeypatch):
    known = targets.get
    monkeypatch.setattr(targets, "get", lambda name: replace(known(name), why_not=lambda: f"{name} is not installed"))
    words = ("run", "model.py:build", "--data", "data.npz", "--target", "openvino")
    refused(call, *words, says=["openvino: openvino is not installed", "--target onnxruntime"])


def test_unknown_metric(place, call):
    words = ("run", "model.py:build", "--data", "data.npz", "--metric", "acuracy")
    refused(call, *words, says="did you mean 'accuracy'")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('steps=[{use = "quantize_statik"}]', "did you mean 'quantize_static'"),
        ('steps=[{use = "quantize_static", sample = 3}]', "did you mean 'samples'"),
        ("model.wieghts=x.pth", "did you mean 'weights'"),
        ("constraints.max_drop=lots", "is not a drop"),
        ("constraints.objective=speed", "constraints.objective"),
        ("measure.budget=0", "measure.budget"),
    ],
)
def test_unknown_step_or_key(place, call, change, says):
    refused(call, "run", "model.py:build", "--data", "data.npz", "--set", change, says=says)


def test_flags_with_a_recipe(place, call):
    Path("recipe.toml").write_text("")
    refused(call, "run", "recipe.toml", "--data", "data.npz", says="--data with a recipe")


def test_shape_that_is_none(place, call):
    refused(call, "export", "model.py:build", "--shape", "3x8x8", says="--shape 3x8x8")


def test_output_folder_that_is_not_ours(place, call):
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("chapter 1")
    refused(call, "run", "model.py:build", "--data", "data.npz", "--out", "mine", says="not from an earlier run")
    assert [path.name for path in Path("mine").iterdir()] == ["thesis.txt"]


def test_output_that_is_a_file(place, call):
    refused(call, "run", "model.py:build", "--data", "data.npz", "--out", "model.py", says="is a file, not a folder")


def test_init_leaves_an_existing_recipe_alone(place, call):
    Path("recipe.toml").write_text("# mine")
    refused(call, "init", "model.py:build", says="exists; it was left as it is")
    assert Path("recipe.toml").read_text() == "# mine"


def test_use_that_is_no_use(place, call):
    code, _, err = call("run")
    assert code == 2 and "which model?" in err
    code, _, err = call("rnu")
    assert code == 2 and "No such command" in err


def test_a_plan_takes_the_words_of_the_run_that_it_tells_of():
    found = {one.name: set(inspect.signature(one.callback).parameters) for one in cli.registered_commands}
    assert found["run"] - found["plan"] == {"out", "locked", "redo", "strict"} and found["plan"] < found["run"]


def test_init_writes_a_recipe_that_loads(place, call):
    from optimize import recipe

    code, out, _ = call("init", "model.py:build", "--data", "data.npz", "--out", "deep/recipe.toml")
    assert code == 0 and "optimize run deep/recipe.toml" in out
    loaded = recipe.load(Path("deep/recipe.toml"))
    assert loaded.model.inputs["x"].shape == ("batch", 3, 8, 8)
    code, out, _ = call("init", "--schema")
    assert code == 0 and "quantize_static" in json.dumps(json.loads(out))


def test_inspect_and_doctor_print_json(place, call, tiny_onnx):
    code, out, _ = call("inspect", tiny_onnx, "--json")
    assert code == 0 and json.loads(out)["ops"]["Conv"] == 2
    code, out, _ = call("inspect", "model.py:build", "--json")
    assert code == 0 and json.loads(out)["weights"] == 3 * 8 * 9 + 8 + 8 * 5 + 5
    code, out, _ = call("doctor", "--json")
    assert code == 0 and json.loads(out)["targets"]["reference"]["builds_here"] == "yes"


def test_eval_says_exceeds_with_exit_code_1(place, call, tiny_onnx, tiny_data):
    import onnx
    from onnx import numpy_helper

    broken = onnx.load(tiny_onnx)
    for tensor in broken.graph.initializer:
        if tensor.name.endswith("classifier.weight"):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(broken, "broken.onnx")
    from optimize.models import read_onnx
    from runtime import engines, host

    x, _ = tiny_data
    session = engines.get("onnxruntime").open({"model": tiny_onnx}, read_onnx(tiny_onnx).specs, host.facts(), {})
    labels = session.run({"image": x})["output"].argmax(1)
    np.savez("sure.npz", x=x, y=labels)
    code, out, err = call("eval", tiny_onnx, tiny_onnx, "broken.onnx", "--data", "sure.npz", "--json")
    assert code == 1, err
    found = json.loads(out)["models"]
    assert found["broken.onnx"]["verdict"] == "exceeds"
    assert found[f"{tiny_onnx} (2)"]["drop"] == 0


def test_help_answers_without_loading_what_is_heavy():
    code = (
        "import sys\nsys.argv = ['optimize', '--help']\nfrom optimize.__main__ import main\nmain()\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'scipy', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sign_and_join_make_bundles_that_load_so(call, tmp_path, monkeypatch):
    pytest.importorskip("cryptography", reason="pip install 'edge-optimize[sign]'")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    import runtime

    monkeypatch.chdir(tmp_path)
    bundle = Path(__file__).parent / "runtime" / "bundles" / "2"
    key = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    Path("key.pem").write_bytes(key)
    code, out, _ = call("join", f"a={bundle}", f"b={bundle}", "--out", "both", "--json")
    assert (code, json.loads(out)["models"]) == (0, ["a", "b"])
    code, out, _ = call("sign", "both", "--key", "key.pem", "--json")
    assert code == 0
    with runtime.load("both", model="b", verify_key=json.loads(out)["public_key"]) as model:
        assert model.bundle.name == "sample"
    refused(call, "sign", "both", "--key", "no.pem", says=("no.pem", "openssl genpkey"))
    refused(call, "join", "a", f"b={bundle}", says="NAME=BUNDLE")
    refused(call, "join", f"a={bundle}", f"a={bundle}", says="each name once")
    code, _, err = call("sign", "nowhere", "--key", "key.pem")
    assert code == 3 and "is not a bundle" in err
