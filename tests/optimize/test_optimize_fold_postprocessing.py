import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import runtime
import targets
from optimize import stages
from optimize.models import TorchModel, read_onnx
from optimize.pipeline import run
from optimize.steps import behind, complete
from optimize.steps.export import Step as Export
from optimize.steps.fold_postprocessing import Step
from optimize.steps.quantize_static import Step as Static
from optimize.verify import judge
from runtime import engines, host
from runtime.decoding import Decoding
from runtime.errors import InputError, StepError
from runtime.tensors import Specs, TensorSpec

X = np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)
MANY = np.random.default_rng(1).standard_normal((240, 3, 8, 8)).astype(np.float32)


class Boxes(nn.Module):
    """A grid of boxes with doubles in it: (N, 4 + objectness + classes, 64), or in rows, or in two outputs."""

    def __init__(self, corners=False, rows=False, objectness=False, apart=False, classes=3):
        super().__init__()
        self.head = nn.Conv2d(3, 4 + objectness + classes, 3, padding=1)
        self.corners, self.rows, self.apart = corners, rows, apart

    def forward(self, image):
        numbers = self.head(image).flatten(2)
        place = torch.arange(64)
        middle = numbers[:, :2].tanh() * 4 + torch.stack([place % 8, place // 8]) * 4
        half = numbers[:, 2:4].sigmoid() * 6 + 2
        box = torch.cat([middle - half, middle + half] if self.corners else [middle, half * 2], 1)
        scores = numbers[:, 4:].sigmoid()
        if self.rows:
            box, scores = box.transpose(1, 2), scores.transpose(1, 2)
        return (box, scores) if self.apart else torch.cat([box, scores], 2 if self.rows else 1)


def exported(net, make_context):
    torch.manual_seed(0)
    return Export()(
        TorchModel(net.eval(), (TensorSpec("image", "float32", ("batch", 3, 8, 8)),)), context(make_context)
    )


def context(make_context):
    return make_context({"image": X})


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 7, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


PAIR = {"output": "output_0", "scores": "output_1"}
KINDS = [
    (classifier, {"kind": "softmax"}, ["output: float32[batch, 7]"]),
    (classifier, {"kind": "argmax"}, ["output: int64[batch]"]),
    (lambda: nn.Conv2d(3, 5, 3), {"kind": "argmax"}, ["output: int64[batch, 6, 6]"]),
    (classifier, {"kind": "top_k", "k": 3}, ["output: int64[batch, 3]", "output_scores: float32[batch, 3]"]),
    (classifier, {"kind": "top_k", "probabilities": True}, None),
    (Boxes, {"kind": "boxes", "most": 30}, ["output: float32[batch, 30, 6]"]),
    (lambda: Boxes(corners=True, rows=True), {"kind": "boxes", "boxes": "corners", "overlap": 0.2}, None),
    (lambda: Boxes(objectness=True), {"kind": "boxes", "objectness": True, "threshold": 0.1}, None),
    (lambda: Boxes(apart=True), {"kind": "boxes", **PAIR, "layout": "columns"}, None),
    (lambda: Boxes(apart=True, rows=True, classes=1), {"kind": "boxes", **PAIR, "layout": "rows"}, None),
]  # fmt: skip


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("net, settings, shapes", KINDS)
def test_engines_give_what_numpy_makes_of_the_raw_outputs(net, settings, shapes, name, make_context, tmp_path):
    model, told = exported(net(), make_context), context(make_context)
    found = Step(**settings)(model, told)
    if shapes:
        assert [str(spec) for spec in found.specs.outputs] == shapes
        assert told.notes == [f"the model gives {', '.join(shapes)}"]
    options = dict(targets.get(name).plain)
    files = engines.get(name).compile(found.path, tmp_path, options)
    session = engines.get(name).open(files, found.specs, host.facts(), options)
    decoding = found.specs.decoding
    for size in (1, 8):
        wanted = decoding.apply(judge(model).run({"image": X[:size]}))
        got = session.run({"image": X[:size]})
        assert list(got) == list(wanted) and {key: one.shape for key, one in got.items()} == {
            key: one.shape for key, one in wanted.items()
        }
        assert engines.relative_error(got, wanted, decoding)[0] < 1e-3
        if settings["kind"] == "boxes":
            there = wanted["output" if "output" in wanted else "output_0"]
            kept = (there[..., 4] > 0).sum(1)
            assert (kept > 1).all() and (kept < 64).all(), "some are dropped, some stay"
            assert np.abs(next(iter(got.values())) - there).max() < 1e-2
    session.close()


def test_what_becomes_of_the_outputs_stays_with_the_file_and_its_manifest(make_context):
    found = Step(kind="boxes")(exported(Boxes(), make_context), context(make_context))
    assert read_onnx(found.path).specs == found.specs
    assert Specs.from_json(json.loads(json.dumps(found.specs.to_json()))) == found.specs


def test_doubles_of_another_class_stay(make_context):
    decoding = Step(kind="boxes", boxes="corners").decoding((TensorSpec("output", "float32", (1, 8, 6)),))
    raw = np.array(
        [[[0, 0, 10, 10, 0.9, 0.1], [1, 0, 11, 10, 0.8, 0.2], [1, 1, 11, 11, 0.1, 0.7], [0, 0, 1, 1, 0.2, 0.1]]]
    )
    found = decoding.apply({"output": raw.astype(np.float32)})["output"][0]
    assert np.allclose(found[:3, 4:], [[0.9, 0], [0.7, 1], [0, 0]])


@pytest.mark.parametrize(
    "damage", [{"kind": "magic"}, {"of": []}, {"of": [3]}, {"count": 0}, {"count": 1.5}, {"corners": 1}, {"more": 1}]
)
def test_a_damaged_manifest_is_no_decoding(damage):
    good = Step(kind="boxes").decoding((TensorSpec("output", "float32", (1, 64, 7)),)).to_json()
    assert Decoding.from_json(good).to_json() == good
    with pytest.raises((KeyError, TypeError, ValueError)):
        Decoding.from_json({**good, **damage})


def test_openvino_computes_what_is_before_it_in_int8_as_without_it(make_context, tmp_path):
    scheme = targets.get("openvino").scheme("host", host.facts())
    rounded = Static()(exported(Boxes(), make_context), make_context({"image": X}, scheme=scheme))
    found = Step(kind="boxes")(rounded, context(make_context))
    answers = []
    for number, model in enumerate((rounded, found)):
        (tmp_path / str(number)).mkdir()
        files = engines.get("openvino").compile(model.path, tmp_path / str(number), {"precision": "f32"})
        session = engines.get("openvino").open(files, model.specs, host.facts(), {"precision": "f32"})
        answers.append(session.run({"image": X}))
        session.close()
    decoding = found.specs.decoding
    assert engines.relative_error(answers[1], decoding.apply(answers[0]), decoding)[0] < 0.02


def test_equal_scores_of_a_rounded_model_are_taken_in_order(make_context):
    class Coarse(Boxes):
        def forward(self, image):
            found = super().forward(image)
            return torch.cat([found[:, :4], (found[:, 4:] * 6).round() / 6], 1)

    model = exported(Coarse(), make_context)
    scores = judge(model).run({"image": X})["output"][:, 4:]
    assert ((scores == scores.max(1, keepdims=True)).sum(1) > 1).mean() > 0.2
    Step(kind="boxes", most=20)(model, context(make_context))  # it compares the two itself


@pytest.mark.parametrize(
    "net, settings, message",
    [
        (classifier, {"kind": "boxes"}, "no output of boxes"),
        (classifier, {"kind": "top_k", "k": 9}, "no 9 classes"),
        (classifier, {"kind": "softmax", "output": "logits"}, "output = '...'"),
        (lambda: Boxes(apart=True), {"kind": "boxes"}, "output = '...'"),
        (lambda: Boxes(apart=True), {"kind": "boxes", "output": "output_0", "layout": "columns"}, "no boxes of four"),
        (lambda: Boxes(), {"kind": "boxes", "scores": "other"}, "scores = '...'"),
        (lambda: Boxes(classes=1), {"kind": "boxes", "objectness": True}, "no boxes of four"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(net, settings, message, make_context):
    with pytest.raises(StepError, match=message):
        Step(**settings)(exported(net(), make_context), context(make_context))


def test_it_comes_last():
    with pytest.raises(InputError, match="'quantize_static' is behind 'fold_postprocessing', which comes last"):
        complete((Step(kind="argmax"), Static()), TorchModel)
    fold = Step(kind="argmax")
    assert behind((Export(), fold), Static()) == (Export(), Static(), fold) and behind((), fold) == (fold,)


def test_a_graph_whose_inner_graph_reads_the_output_is_refused(make_context, tmp_path):
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    branch = onnx.helper.make_graph([node("Neg", ["scores"], ["b"])], "b", [], [value("b", 1, ["n", 4])])
    graph = onnx.helper.make_graph(
        [node("Relu", ["x"], ["scores"]), node("ReduceSum", ["x"], ["sum"], keepdims=0),
         node("Cast", ["sum"], ["yes"], to=9), node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)],
        "g", [value("x", 1, ["n", 4])], [value("scores", 1, ["n", 4]), value("y", 1, ["n", 4])],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(StepError, match="reads the output 'scores' in a graph of its own"):
        Step(kind="softmax", output="scores")(read_onnx(path), make_context({"x": X[:, 0, 0, :4]}))


RECIPE = """
[model]
path = "model.onnx"
[data]
path = "data.npz"
metric = "{metric}"
[[steps]]
use = "quantize_static"
[[steps]]
use = "repair"
[[steps]]
use = "fold_postprocessing"
{settings}
[targets.onnxruntime]
[constraints]
max_drop = "{max_drop}"
[measure]
budget = 1
"""


def ran(folder, model, labels, settings, metric, max_drop=0.5):
    shutil.copy(model, folder / "model.onnx")
    np.savez(folder / "data.npz", image=MANY, y=labels)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(settings=settings, metric=metric, max_drop=max_drop))
    return run(recipe, out=folder / "out", silent=True)


def test_the_whole_way_with_boxes(make_context, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "outrun", lambda *asked: "")  # int8 has nothing to win in so small a network
    model = exported(Boxes(), make_context)
    fold = Step(kind="boxes", threshold=0.4, most=10)
    raw = judge(model).run({"image": MANY})
    labels = np.full((240, 10, 5), -1, np.float32)
    for row, own in zip(labels, fold.decoding(model.specs.outputs).apply(raw)["output"], strict=True):
        kept = own[own[:, 4] > 0]
        row[: len(kept)] = kept[:, [0, 1, 2, 3, 5]]
    settings = 'kind = "boxes"\nthreshold = 0.4\nmost = 10'
    report = ran(tmp_path, model.path, labels, settings, "average_precision_50", 0.0)
    assert report.original.accuracy.value == 1.0, "the original's raw outputs are decoded before they are judged"
    assert report.outputs == ["output: float32[batch, 10, 6]"]
    names = [row.name for row in report.candidates]
    assert "onnxruntime-int8-repaired" in names, "layers are compared in the raw outputs"
    int8 = report.row("onnxruntime-int8")
    assert int8.accuracy.value < 1.0 and int8.detail.sqnr_db is None
    assert any(row.noise for row in report.candidates)
    device = runtime.load(tmp_path / "out" / "bundle")
    assert device(X[:2]).shape == (2, 10, 6) and device.outputs[0].decoding.kind == "boxes"


def test_the_whole_way_with_classes(tiny_onnx, tmp_path):
    labels = judge(read_onnx(tiny_onnx)).run({"image": MANY})["output"].argmax(1)
    report = ran(tmp_path, tiny_onnx, labels, 'kind = "top_k"\nk = 2', "accuracy")
    assert report.outputs == ["output: int64[batch, 2]", "output_scores: float32[batch, 2]"]
    assert report.original.accuracy.value > 0.9 and 0.5 < report.row("onnxruntime-int8").detail.agreement <= 1
    with pytest.raises(InputError, match="this metric needs 5"):
        ran(tmp_path, tiny_onnx, labels, 'kind = "top_k"\nk = 2', "top5")
    with pytest.raises(InputError, match=r"the step 'fold_postprocessing': .*no output of boxes"):
        ran(tmp_path, tiny_onnx, labels, 'kind = "boxes"', "accuracy")
