import logging
import re

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from optimize import verify
from optimize.models import TorchModel
from optimize.steps import export
from optimize.steps.export import Step
from optimize.usercode import load_callable
from optimize.verify import judge
from runtime.errors import StepError, WorkError
from runtime.tensors import TensorSpec

IMAGE = (TensorSpec("image", "float32", ("batch", 3, 8, 8)),)
X = (TensorSpec("x", "float32", ("batch", 4)),)


class Around(nn.Module):
    """A linear layer, then a function."""

    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))


def around(function):
    torch.manual_seed(0)
    return TorchModel(Around(function).eval(), X)


@pytest.fixture
def context(make_context):
    return make_context({"x": np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)})


UNKNOWN = """
import torch
from torch import nn

class Inner(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)

class Forks(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return torch.special.bessel_j0(x)
        return x

def inner(): return nn.Sequential(nn.Linear(4, 4), Inner())
def forks(): return Forks()
"""


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("inner", [r"dynamo: .*\(the op prims\.bessel_j0\.default, which comes from (\S*model\.py):7\)",
                   r"torchscript: .*\(the op aten::special_bessel_j0, which comes from (\S*model\.py):7\)"]),
        ("forks", [r"dynamo: .*\(it comes from (\S*model\.py):11\)"]),
    ],
)  # fmt: skip
def test_what_no_exporter_knows_is_named_with_the_line_of_the_users_code(tmp_path, make_context, name, lines):
    context = make_context({"x": np.random.default_rng(0).random((16, 4), np.float32)})
    (tmp_path / "model.py").write_text(UNKNOWN)
    module = load_callable(f"{tmp_path}/model.py:{name}", "model")()
    with pytest.raises(StepError) as caught:
        Step()(TorchModel(module.eval(), X), context)
    for line in lines:
        found = re.search(line, str(caught.value))
        assert found and found[1] == str(tmp_path / "model.py"), str(caught.value)


def exact(model, feeds):
    with torch.inference_mode():
        return model.module(*(torch.from_numpy(value) for value in feeds.values()))


@pytest.mark.parametrize("exporter", ["auto", "torchscript"])
def test_export_computes_the_same_and_is_verified_at_three_batches(
    tiny_module, image_context, tiny_data, monkeypatch, exporter
):
    sizes = []

    def seen(split, inputs, size):
        sizes.append(size)
        return verify_feeds(split, inputs, size)

    verify_feeds = verify.sized_feeds
    monkeypatch.setattr(verify, "sized_feeds", seen)
    context, model = image_context(), TorchModel(tiny_module, IMAGE)
    found = Step(exporter=exporter)(model, context)
    assert sizes == [1, 3, 4]
    assert found.specs.inputs == IMAGE and found.specs.outputs == (TensorSpec("output", "float32", ("batch", 5)),)
    name = "dynamo" if exporter == "auto" else exporter
    assert context.notes == [f"exported by torch.onnx, {name}, opset 18"]
    assert [path.name for path in context.folder.iterdir()] == ["model.onnx"] and found.path.parent == context.folder
    for batch in (1, 2, 7, 64):  # 7 and 64 lie beyond what was verified: the axis is truly open
        feeds = {"image": tiny_data[0][:batch]}
        np.testing.assert_allclose(judge(found).run(feeds)["output"], exact(model, feeds), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("opset", [17, 20])
def test_the_opset_is_the_one_asked_for(context, opset):
    model = Step(exporter="torchscript", opset=opset)(around(torch.relu), context)
    assert [entry.version for entry in onnx.load(model.path).opset_import if entry.domain == ""] == [opset]
    assert context.notes[-1].endswith(f"opset {opset}")


def test_a_fixed_batch_stays_fixed(make_context, tiny_module, tiny_data):
    inputs = (TensorSpec("image", "float32", (2, 3, 8, 8)),)
    found = Step()(TorchModel(tiny_module, inputs), make_context({"image": tiny_data[0]}, axes={}))
    assert found.specs.inputs == inputs and found.specs.outputs[0].shape == (2, 5)


def test_one_sample_of_data_is_enough(make_context, tiny_module, tiny_data):
    found = Step()(TorchModel(tiny_module, IMAGE), make_context({"image": tiny_data[0][:1]}))
    assert found.specs.inputs[0].shape[0] == "batch"


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: (x, x.sum(1)), ["output_0", "output_1"]),
        (lambda x: {"zeta": x + 1, "alpha": x.sum(1), "mean": x.mean(1)}, ["zeta", "alpha", "mean"]),
    ],
)
def test_several_outputs_keep_names_and_order(context, exporter, function, names):
    model = around(function)
    found = Step(exporter=exporter)(model, context)
    assert [spec.name for spec in found.specs.outputs] == names
    x = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    expected = exact(model, {"x": x})
    expected = list(expected.values()) if isinstance(expected, dict) else expected
    got = judge(found).run({"x": x})
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("packed", [False, True])
def test_two_inputs_keep_names_order_and_axes(make_context, exporter, packed):
    class Two(nn.Module):
        def forward(self, left, right):
            return left - right.sum(-1, keepdim=True)

    class Packed(nn.Module):
        def forward(self, *args):
            return args[0] - args[1].sum(-1, keepdim=True)

    inputs = (TensorSpec("zeta", "float32", ("batch", 3)), TensorSpec("alpha", "float32", ("batch", "length")))
    random = np.random.default_rng(0)
    feeds = {"alpha": random.random((8, 6), np.float32), "zeta": random.random((8, 3), np.float32)}
    found = Step(exporter=exporter)(TorchModel((Packed if packed else Two)().eval(), inputs), make_context(feeds))
    assert found.specs.inputs == inputs
    other = {"zeta": random.random((3, 3), np.float32), "alpha": random.random((3, 9), np.float32)}
    expected = other["zeta"] - other["alpha"].sum(-1, keepdims=True)
    np.testing.assert_allclose(judge(found).run(other)["output"], expected, rtol=1e-5)


def test_a_branch_that_the_exporter_bakes_in_is_found_and_named(context):
    model = around(lambda x: x * 2 if x.shape[0] > 2 else x)
    with pytest.raises(StepError) as caught:
        Step()(model, context)
    message = str(caught.value)
    assert "dynamo: at batch 3 the output 'output' differs by 0.5" in message
    assert "torchscript: at batch 3 the output 'output' differs by 0.5" in message


def test_a_batch_that_tracing_bakes_in_is_found_and_named(context):
    with pytest.raises(StepError, match="at batch 1 the output 'output' differs by 1 "):
        Step(exporter="torchscript")(around(lambda x: x * float(x.shape[0])), context)


def test_a_batch_that_cannot_be_dynamic_says_why_in_plain_words(context):
    model = around(lambda x: x.reshape(2, 4) if x.shape[0] == 2 else x)
    with pytest.raises(StepError) as caught:
        Step(exporter="dynamo")(model, context)
    assert "\x1b" not in str(caught.value)  # no colours of a terminal's
    assert "static shape of 2" in str(caught.value)  # the cause, and not only that there is one


def wrong_write(proto, path):
    """As if the exporter had computed something else."""
    for tensor in proto.graph.initializer:
        if tensor.dims and numpy_helper.to_array(tensor).ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.01, tensor.name))
    return true_write(proto, path)


true_write = export.write_onnx


def test_a_wrong_export_is_found_and_named(context, monkeypatch):
    monkeypatch.setattr(export, "write_onnx", wrong_write)
    with pytest.raises(StepError, match=r"at batch 1 the output 'alpha' differs by 0\.0\d+ \(relative\)"):
        Step(exporter="torchscript")(around(lambda x: {"zeta": torch.ones_like(x), "alpha": x}), context)


def test_a_wrong_export_is_accepted_within_the_tolerance_asked_for(context, monkeypatch):
    monkeypatch.setattr(export, "write_onnx", wrong_write)
    Step(exporter="torchscript", tolerance=0.1)(around(torch.sin), context)


def fails_first(monkeypatch, error):
    true = torch.onnx.export

    def fail(*arguments, **settings):
        if settings["dynamo"]:
            raise error
        return true(*arguments, **settings)

    monkeypatch.setattr(torch.onnx, "export", fail)


def test_where_dynamo_fails_the_older_exporter_is_taken_and_that_is_said(context, monkeypatch):
    fails_first(monkeypatch, RuntimeError("no such op\nand much more"))
    found = Step()(around(torch.relu), context)
    assert context.notes == [
        "export: dynamo: RuntimeError: no such op and much more; another exporter was taken",
        "exported by torch.onnx, torchscript, opset 18",
    ]
    assert judge(found).run({"x": np.ones((3, 4), np.float32)})["output"].shape == (3, 4)


def test_where_dynamo_is_wrong_the_older_exporter_is_taken(context, monkeypatch):
    calls = []

    def first_is_wrong(proto, path):
        calls.append(path)
        return wrong_write(proto, path) if len(calls) == 1 else true_write(proto, path)

    monkeypatch.setattr(export, "write_onnx", first_is_wrong)
    Step()(around(torch.relu), context)
    assert "dynamo: at batch " in context.notes[0] and "torchscript" in context.notes[1]


def test_where_dynamo_alone_is_asked_for_there_is_no_other(context, monkeypatch):
    fails_first(monkeypatch, RuntimeError("no such op"))
    with pytest.raises(StepError, match=r"could not do it\. dynamo: RuntimeError: no such op$"):
        Step(exporter="dynamo")(around(torch.relu), context)


def test_exporting_leaves_the_module_and_the_loggers_as_they_were(context):
    handlers, model = logging.getLogger("torch").handlers[:], around(torch.relu)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    Step()(model, context)
    assert logging.getLogger("torch").handlers == handlers and not model.module.training
    assert all(torch.equal(before[key], value) for key, value in model.module.state_dict().items())


def test_a_module_that_fails_is_a_work_error(context):
    with pytest.raises(WorkError, match="the model raised"):
        Step()(around(lambda x: x @ torch.ones(7)), context)
