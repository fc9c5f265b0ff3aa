import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from optimize import sources
from optimize.sources import ModelSpec
from optimize.sources.torch import TorchSession, fill, named_outputs, tensors
from runtime.contender import Worker
from runtime.errors import EngineError, InputError
from runtime.tensors import TensorSpec

X = (TensorSpec("x", "float32", ("batch", 4)),)
SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.norm = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))

def build():
    torch.manual_seed(3)
    return Net()

def broken(): raise OSError("no weights here")
def nothing(): return "net"
def threads():
    torch.set_num_threads(1)
    return Net()
"""


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


@pytest.fixture(autouse=True)
def _threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "model.py").write_text(SOURCE)
    return f"{tmp_path}/model.py"


def numbers(samples=5):
    return np.random.default_rng(0).standard_normal((samples, 4)).astype(np.float32)


def test_the_source_is_told_by_the_place():
    assert sources.detect("a/b.onnx") == "onnx" and sources.detect("a/b.py:build") == "torch"
    with pytest.raises(InputError, match="is not a model that any source knows"):
        sources.detect("weights.pth")
    with pytest.raises(InputError, match="did you mean 'torch'"):
        sources.load(ModelSpec("troch", "model.py:build"))


def test_torch_is_loaded_in_eval_mode_and_runs(place):
    original = sources.load(ModelSpec("torch", f"{place}:build", inputs=X))
    assert not original.model.training and not original.model.norm.training
    x = numbers()
    with torch.inference_mode():
        expected = original.model(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(original.open().run({"x": x})["output"], expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "model.py:broken raised OSError: no weights here"),
        ("nothing", r"returned a str, not a torch\.nn\.Module"),
        ("biuld", "did you mean 'build'"),
    ],
)
def test_an_entry_that_gives_no_module_is_refused(place, name, message):
    with pytest.raises(InputError, match=message):
        sources.load(ModelSpec("torch", f"{place}:{name}"))


def test_threads_are_set_after_the_module_was_built(place):
    session = sources.load(ModelSpec("torch", f"{place}:threads", inputs=X, threads=2)).open()
    assert session.threads == torch.get_num_threads() == 2


def test_precision_is_that_of_the_parameters():
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).half())
    assert TorchSession(module, X, None).precision() == {"f32": 2, "f16": 2}


# weights


@pytest.mark.parametrize("form", ["pth", "safetensors", "state_dict", "model_state_dict", "model", "module.", "both"])
def test_weights_in_every_usual_form_are_filled_in(tmp_path, form):
    torch.manual_seed(1)
    wanted, module = network(), network()
    state = wanted.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form in ("module.", "both"):
        state = {f"module.{key}": tensor for key, tensor in state.items()}
    if form == "safetensors":
        save_file(state, path)
    elif form in ("pth", "module."):
        torch.save(state, path)
    else:
        torch.save({"state_dict" if form == "both" else form: state, "epoch": 3}, path)
    notes = fill(module, path, trust=False)
    for key, tensor in wanted.state_dict().items():
        assert torch.equal(module.state_dict()[key], tensor)
    taken = [f"weights taken from '{form}' in w.pth"] if "model" in form or form == "state_dict" else []
    taken = ["weights taken from 'state_dict' in w.pth"] if form == "both" else taken
    prefix = ["the prefix 'module.' was taken off the keys of w.pth"] if form in ("module.", "both") else []
    assert list(notes) == taken + prefix


def test_a_pickled_module_needs_trust(tmp_path):
    torch.manual_seed(1)
    wanted, module = network(), network()
    torch.save(wanted, tmp_path / "w.pth")
    before = module[0].weight.clone()
    with pytest.raises(InputError, match=r"cannot be read without unpickling.*--trust"):
        fill(module, tmp_path / "w.pth", trust=False)
    assert torch.equal(module[0].weight, before)
    fill(module, tmp_path / "w.pth", trust=True)
    assert torch.equal(module[0].weight, wanted[0].weight)


class Harm:
    def __reduce__(self):
        return eval, ("1 + 1",)


def test_nothing_is_executed_without_trust(tmp_path, monkeypatch):
    torch.save({"weight": Harm()}, tmp_path / "w.pth")
    called = []
    monkeypatch.setattr("builtins.eval", lambda *arguments: called.append(arguments))
    with pytest.raises(InputError, match="--trust"):
        fill(network(), tmp_path / "w.pth", trust=False)
    assert called == []


def test_weights_that_do_not_fit_name_the_first_five_keys(tmp_path):
    other = nn.Sequential(nn.Linear(4, 9), nn.BatchNorm1d(9), nn.Linear(9, 3), nn.Linear(3, 3))
    torch.save(other.state_dict(), tmp_path / "w.pth")
    module = network()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    with pytest.raises(InputError) as caught:
        fill(module, tmp_path / "w.pth", trust=False)
    message = str(caught.value)
    assert "9 keys differ" in message  # 7 of another shape, 2 that are not in the model
    assert message.count(";") == 5 and "0.weight is (9, 4) in the file, (8, 4) in the model" in message
    assert all(torch.equal(module.state_dict()[key], tensor) for key, tensor in before.items())


def test_missing_and_surplus_keys_are_named(tmp_path):
    state = network().state_dict()
    state["extra"] = state.pop("2.bias")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError, match=re.escape("first: 2.bias is missing; extra is not in the model")):
        fill(network(), tmp_path / "w.pth", trust=False)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("content", [b"", b"not weights at all", "truncated"])
def test_a_damaged_checkpoint_is_refused(tmp_path, name, trust, content):
    path = tmp_path / name
    if content == "truncated":
        (save_file if name.endswith("tensors") else torch.save)(network().state_dict(), path)
        content = path.read_bytes()[:-300]
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        fill(network(), path, trust)


@pytest.mark.parametrize("content", [3, [1, 2], torch.ones(3)])
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="not a state dict"):
        fill(network(), tmp_path / "w.pth", trust=False)


def test_a_checkpoint_that_is_not_there_is_refused(place, tmp_path):
    with pytest.raises(InputError, match=r"no such file.*the weights"):
        sources.load(ModelSpec("torch", f"{place}:build", weights=str(tmp_path / "w.pth")))


# outputs


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (torch.ones(2), ["output"]),
        ((torch.ones(2), torch.zeros(2)), ["output_0", "output_1"]),
        ([torch.ones(2)], ["output_0"]),
        ({"zeta": torch.ones(2), "alpha": torch.zeros(2), "loss": None}, ["zeta", "alpha"]),
    ],
)
def test_outputs_get_names(result, names):
    assert list(named_outputs(result)) == names


@pytest.mark.parametrize("result", [None, 3.0, "text", (torch.ones(2), None)])
def test_outputs_that_are_no_tensors_are_refused(result):
    with pytest.raises(InputError, match="it must be a tensor, a tuple or a dict of tensors"):
        named_outputs(result)


class Split(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x + 1, x * 2)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda a, b: a, ["output"]),
        (lambda a, b: (a, b), ["output_0", "output_1"]),
        (lambda a, b: {"sum": a, "product": b}, ["sum", "product"]),
    ],
)
def test_a_session_gives_outputs_by_name_and_writes_into_arrays(form, names):
    session, x = TorchSession(Split(form).eval(), X, None), numbers()
    expected = dict(zip(names, (x + 1, x * 2), strict=False))
    out = {name: np.zeros_like(x) for name in names}
    found = session.run({"x": x}, out)
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_array_equal(out[name], expected[name])


def test_arguments_come_in_the_order_of_the_inputs():
    inputs = (TensorSpec("b", "float32", ("n",)), TensorSpec("a", "float32", ("n",)))
    found = tensors({"a": np.zeros(1, np.float32), "b": np.ones(1, np.float32)}, inputs)
    assert [int(tensor) for tensor in found] == [1, 0]


def test_an_array_that_may_not_be_written_is_copied_without_a_warning():
    x = numbers()
    x.flags.writeable = False
    assert tensors({"x": x}, X)[0].numpy().base is not x


@pytest.mark.parametrize("form", [lambda a, b: a @ b, lambda a, b: a.bfloat16(), lambda a, b: None])
def test_a_module_that_fails_or_gives_what_numpy_has_not_is_an_engine_error(form):
    with pytest.raises(EngineError):
        TorchSession(Split(form).eval(), X, None).run({"x": numbers(3)})


# onnx


def test_onnx_is_read_where_it_lies(tiny_onnx, tiny_data):
    original = sources.load(ModelSpec("onnx", str(tiny_onnx)))
    assert original.model == tiny_onnx and [spec.name for spec in original.inputs] == ["image"]
    assert original.open().run({"image": tiny_data[0][:3]})["output"].shape == (3, 5)


def test_onnx_with_other_weights_is_refused(tiny_onnx):
    with pytest.raises(InputError, match=r"holds its own weights; leave out w\.pth"):
        sources.load(ModelSpec("onnx", str(tiny_onnx), weights="w.pth"))


def test_onnx_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        sources.load(ModelSpec("onnx", str(tmp_path / "m.onnx")))


# in a process of its own


def test_torch_gives_the_same_in_a_process_of_its_own(place, tmp_path):
    for name in ("runtime", "targets", "optimize"):  # beside the user's model, and not ours
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong file was imported')")
    torch.manual_seed(9)
    weights = tmp_path / "w.pth"
    spec = ModelSpec("torch", f"{place}:build", inputs=X, threads=1)
    state = {key: torch.rand_like(value) if value.is_floating_point() else value
             for key, value in sources.load(spec).model.state_dict().items()}  # fmt: skip
    torch.save(state, weights)
    spec = ModelSpec("torch", f"{place}:build", str(weights), X, threads=1)
    x = numbers()
    here = sources.load(spec).open().run({"x": x})["output"]
    with Worker.start(spec.contender("mine"), {"x": x}) as worker:
        assert worker.name == "mine" and worker.use()["threads"] == 1
        np.testing.assert_allclose(worker.outputs["output"], here, rtol=1e-5)
        np.testing.assert_allclose(worker.run({"x": x[:2]})["output"], here[:2], rtol=1e-5)


def test_onnx_gives_the_same_in_a_process_of_its_own(tiny_onnx, tiny_data):
    spec = ModelSpec("onnx", str(tiny_onnx), threads=1)
    feeds = {"image": tiny_data[0][:4]}
    with Worker.start(spec.contender(), feeds) as worker:
        assert worker.name == "original"
        np.testing.assert_allclose(worker.outputs["output"], sources.load(spec).open().run(feeds)["output"], rtol=1e-5)


def test_an_original_that_cannot_be_loaded_says_so_from_its_process(tmp_path):
    spec = ModelSpec("onnx", str(tmp_path / "gone.onnx"))
    with pytest.raises(InputError, match=r"no such file: .*gone\.onnx"):
        Worker.start(spec.contender(), {})
