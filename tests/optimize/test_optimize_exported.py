"""Programs that torch wrote: told from what they are not, trusted or refused, run and exported."""

import zipfile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from optimize import recipe, sources, starter
from optimize.inspection import inspect
from optimize.models import TorchModel
from optimize.origin import origin
from optimize.sources import ModelSpec
from optimize.steps.export import Step
from optimize.verify import judge
from runtime.contender import Worker
from runtime.errors import EngineError, InputError, StepError
from runtime.tensors import TensorSpec

X = (TensorSpec("x", "float32", ("batch", 4)),)
DYNAMIC = torch.export.Dim.DYNAMIC


class Net(nn.Module):
    """A program that takes another way where its input's sum is negative, if it is asked to."""

    def __init__(self, forks=False):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.drop, self.forks = nn.Linear(4, 3), nn.Dropout(0.5), forks

    def forward(self, x):
        y = self.linear(x)
        if self.forks and bool(x.sum() < 0):
            y = y * 3
        return self.drop(y)


class Two(nn.Module):
    def forward(self, ids, mask):
        return ids * 2 + mask, mask.float().mean(1)


def numbers(samples=5):
    return np.random.default_rng(0).standard_normal((samples, 4)).astype(np.float32)


def saved(module, arguments, path, dynamic, **more):
    torch.export.save(torch.export.export(module, arguments, dynamic_shapes=dynamic, **more), path)
    return str(path)


@pytest.fixture
def pt2(tmp_path):
    return saved(Net().eval(), (torch.ones(2, 4),), tmp_path / "net.pt2", ({0: DYNAMIC},))


@pytest.fixture
def scripted(tmp_path):
    torch.jit.script(Net(forks=True).eval()).save(tmp_path / "net.ts")
    return str(tmp_path / "net.ts")


def load(place, **more):
    return sources.load(ModelSpec("torch", place, trust=True, **more))


@pytest.mark.parametrize("name", ["m.pt2", "m.pt", "m.ts", "m.jit", "a/m.torchscript"])
def test_programs_are_told_by_their_ending(name):
    assert sources.detect(name) == "torch"


def test_nothing_is_opened_without_trust(pt2, scripted, monkeypatch):
    def opened(*arguments, **more):
        raise AssertionError("it was opened")

    monkeypatch.setattr(torch.export, "load", opened)
    monkeypatch.setattr(torch.jit, "load", opened)
    for place in (pt2, scripted):
        with pytest.raises(InputError, match=r"holds pickles and code.*--trust .*\[model\] trust = true"):
            sources.load(ModelSpec("torch", place))


def test_a_pt2_knows_its_inputs_and_runs(pt2):
    original, x = load(pt2), numbers()
    assert original.inputs == X
    with torch.inference_mode():
        expected = Net().eval()(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(original.open().run({"x": x})["output"], expected, rtol=1e-6)
    with Worker.start(ModelSpec("torch", pt2, trust=True, threads=1).contender(), {"x": x}) as worker:
        np.testing.assert_allclose(worker.outputs["output"], expected, rtol=1e-5)


def test_lengths_that_are_one_in_torch_are_one_axis(tmp_path):
    arguments = (torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64))
    place = saved(Two(), arguments, tmp_path / "two.pt2", ({0: DYNAMIC, 1: DYNAMIC}, {0: DYNAMIC, 1: DYNAMIC}))
    assert load(place).inputs == tuple(TensorSpec(one, "int64", ("batch", "ids_1")) for one in ("ids", "mask"))


def test_other_names_may_be_given_to_the_inputs_and_other_inputs_may_not(pt2):
    other = (TensorSpec("image", "float32", ("n", 4)),)
    assert load(pt2, inputs=other).inputs == other
    wrong = ((TensorSpec("x", "float64", ("n", 4)),), (TensorSpec("x", "float32", ("n", 5)),), (*X, *other))
    for given in wrong:
        with pytest.raises(InputError, match=r"net\.pt2 takes x: float32\[batch, 4\], and the inputs that were given"):
            load(pt2, inputs=given)


def test_a_program_that_still_trains_is_refused(tmp_path):
    place = saved(Net().train(), (torch.ones(2, 4),), tmp_path / "net.pt2", None)
    with pytest.raises(InputError, match=r"in training mode: call module\.eval\(\) before"):
        load(place)


class Scaled(nn.Module):
    def forward(self, x, factor=2):
        return x * factor


@pytest.mark.parametrize(
    ("arguments", "more"), [((torch.ones(2, 4), 3), {}), ((), {"kwargs": {"x": torch.ones(2, 4)}})]
)
def test_a_program_that_takes_more_than_tensors_in_a_row_is_refused(tmp_path, arguments, more):
    place = saved(Scaled(), arguments, tmp_path / "scaled.pt2", None, **more)
    with pytest.raises(InputError, match="does not take tensors one after the other"):
        load(place)


def test_what_is_no_program_is_named(tmp_path):
    path = tmp_path / "m.pt"
    for write, message in (
        (lambda: torch.save(Net().state_dict(), path), r"is a checkpoint.*file\.py:callable .*--weights m\.pt"),
        (lambda: torch.save(Net().state_dict(), path, _use_new_zipfile_serialization=False), "is a checkpoint"),
        (lambda: path.write_text("hello"), r"neither an exported program .* nor TorchScript"),
        (lambda: zipfile.ZipFile(path, "w").writestr("m/data/aotinductor/model/x.so", b""), "AOTInductor"),
        (path.unlink, r"no such file: .*m\.pt \(the model\)"),
    ):
        write()
        with pytest.raises(InputError, match=message):
            load(str(path))


@pytest.mark.parametrize("kind", ["pt2", "scripted"])
def test_a_damaged_program_is_refused(kind, tmp_path, request):
    whole = request.getfixturevalue(kind)
    path = tmp_path / f"cut{whole[whole.rindex('.') :]}"
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if "weights_config" not in name and not name.endswith("data.pkl"):
                target.writestr(name, source.read(name))
    with pytest.raises(InputError, match=r"cut\..* cannot be loaded by torch"):
        load(str(path))


def test_weights_beside_a_program_are_refused(pt2):
    with pytest.raises(InputError, match=r"holds its own weights; leave out w\.pth"):
        load(pt2, weights="w.pth")


def model(place, inputs=()):
    original = load(place, inputs=inputs)
    return TorchModel(original.model, original.inputs, file=original.file)


def test_a_pt2_is_exported_as_it_is(pt2, make_context):
    context, given = make_context({"x": numbers(8)}), model(pt2)
    found = Step()(given, context)
    assert context.notes == ["exported by torch.onnx, dynamo, opset 18"] and found.specs.inputs == X
    with pytest.raises(StepError, match="is exported by dynamo alone"):
        Step(exporter="torchscript")(given, make_context({"x": numbers(8)}))


def test_torchscript_is_exported_with_all_its_ways(scripted, make_context):
    context = make_context({"x": numbers(8)})
    found = Step()(model(scripted, X), context)
    assert context.notes == ["exported by torch.onnx, torchscript, opset 18"]
    assert "If" in {node.op_type for node in onnx.load(found.path).graph.node}
    net = Net(forks=True).eval()
    for x in (np.abs(numbers()), -np.abs(numbers())):
        with torch.inference_mode():
            expected = net(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(judge(found).run({"x": x})["output"], expected, rtol=1e-5, atol=1e-6)


def test_programs_of_the_same_weights_are_told_apart_by_their_files(tmp_path):
    for name, forks in (("a.ts", False), ("b.ts", True)):
        torch.jit.script(Net(forks).eval()).save(tmp_path / name)
    assert len({origin(model(str(tmp_path / name), X)) for name in ("a.ts", "b.ts")}) == 2


@pytest.mark.parametrize("step", ["prune_channels", "recover"])
def test_a_program_cannot_be_changed_in_torch(step):
    settings = {"ratio": 0.5} if step == "prune_channels" else {}
    table = {
        "model": {"path": "net.pt2", "trust": True},
        "data": {"path": "data.npz"},
        "steps": [{"use": step, **settings}],
        "targets": {"reference": {}},
    }
    with pytest.raises(InputError, match=f"the step '{step}' changes a torch module, and .*net.pt2 is a program"):
        recipe.from_table(table, recipe.Path())


def test_a_fixed_batch_stays_fixed_and_another_is_refused_by_the_program(tmp_path):
    place = saved(Net().eval(), (torch.ones(2, 4),), tmp_path / "net.pt2", None)
    original = load(place)
    assert original.inputs == (TensorSpec("x", "float32", (2, 4)),)
    with pytest.raises(EngineError, match="Guard failed"):
        original.open().run({"x": numbers(3)})


def test_it_is_inspected_by_its_ops_or_layers_and_a_recipe_names_it_as_a_file(pt2, scripted, tmp_path):
    assert inspect(pt2, None, True)["layers"] == {"aten.linear.default": 1, "aten.dropout.default": 1}
    found = inspect(scripted, None, True)
    assert found["format"] == "torch module Net" and found["layers"] == {"Linear": 1, "Dropout": 1}
    starter.write(pt2, None, None, tmp_path / "recipe.toml")
    text = (tmp_path / "recipe.toml").read_text()
    assert 'path = "net.pt2"' in text and "# trust = true" in text and "weights" not in text
