import json
from pathlib import Path

import pytest

from optimize import recipe, steps
from optimize.models import TorchModel
from optimize.recipe import from_table, load
from optimize.tables import allowed_drop
from runtime.errors import InputError
from runtime.tensors import TensorSpec

GOOD = """
[model]
entry = "model.py:build"
weights = "weights.pth"
threads = 2
[model.inputs.image]
shape = ["batch", 3, 32, 32]
[model.inputs.mask]
shape = ["batch", "length"]
dtype = "bool"
[model.axes]
batch = { min = 1, best = 2, max = 8 }

[data]
entry = "data.py:splits"
metric = "metrics.py:f1"
better = "higher"

[[steps]]
use = "quantize_static"
samples = 100
exclude = ["Gemm"]

[targets.openvino]
threads = 1
[targets.onnxruntime]
cpu = "avx2"

[constraints]
max_drop = "0.5pp"
objective = "size"

[measure]
budget = 3
"""


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "recipe.toml"
    file.write_text(GOOD)
    return file


def table(**changes):
    """The smallest recipe, with tables replaced."""
    return {"model": {"path": "model.onnx"}, "data": {"path": "data.npz"}, "targets": {"openvino": {}}, **changes}


def test_a_good_recipe(path, tmp_path):
    asked = load(path)
    spec = asked.model_spec()
    assert (spec.source, spec.place, spec.weights, spec.threads) == (
        "torch", f"{tmp_path}/model.py:build", f"{tmp_path}/weights.pth", 2,
    )  # fmt: skip
    assert spec.inputs == (
        TensorSpec("image", "float32", ("batch", 3, 32, 32)),
        TensorSpec("mask", "bool", ("batch", "length")),
    )
    assert asked.data_place() == f"{tmp_path}/data.py:splits" and asked.metric() == f"{tmp_path}/metrics.py:f1"
    assert asked.model.axes["batch"].best == 2
    assert [steps.name_of(step) for step in asked.all_steps()] == ["export", "simplify", "quantize_static"]
    assert asked.steps[0].samples == 100 and asked.steps[0].exclude == ("Gemm",)
    assert asked.constraints.objective == "size" and asked.measure.budget == 3


def test_defaults():
    asked = from_table(table(), Path("/here"))
    assert asked.constraints.max_drop == "1pp" and asked.constraints.objective == "latency"
    assert asked.measure.budget == 10 and asked.metric() is None and not asked.model.trust
    assert asked.model_spec().source == "onnx" and asked.model_spec().place == "/here/model.onnx"
    assert [steps.name_of(step) for step in asked.all_steps()] == ["simplify"]


def test_an_absolute_path_stays_as_it_is(tmp_path):
    asked = from_table(table(model={"path": "/models/m.onnx"}), tmp_path)
    assert asked.model_spec().place == "/models/m.onnx"


@pytest.mark.parametrize(
    ("change", "read", "value"),
    [
        ("constraints.max_drop=0.02", lambda r: r.constraints.max_drop, 0.02),
        ("constraints.max_drop=2%", lambda r: r.constraints.max_drop, "2%"),
        ('constraints.objective="memory"', lambda r: r.constraints.objective, "memory"),
        ("constraints.objective=memory", lambda r: r.constraints.objective, "memory"),
        ("measure.seed=4", lambda r: r.measure.seed, 4),
        ("model.trust=true", lambda r: r.model.trust, True),
        (" model.weights = other.pth", lambda r: r.model.weights.strip(), "other.pth"),
        ("model.inputs.image.shape=[1, 3, 8, 8]", lambda r: r.model.inputs["image"].shape, (1, 3, 8, 8)),
        ("model.axes.batch.max=4", lambda r: r.model.axes["batch"].max, 4),
        ("steps.0.samples=7", lambda r: r.steps[0].samples, 7),
        ('steps.0={use = "simplify"}', lambda r: steps.name_of(r.steps[0]), "simplify"),
        ("steps=[]", lambda r: r.steps, ()),
        ("targets.tensorrt={}", lambda r: sorted(r.targets), ["onnxruntime", "openvino", "tensorrt"]),
    ],
)
def test_set_changes_one_place(path, change, read, value):
    assert read(load(path, [change])) == value
    assert read(load(path)) != value


def test_later_changes_win(path):
    assert load(path, ["measure.seed=1", "measure.seed=2"]).measure.seed == 2


@pytest.mark.parametrize(
    "change",
    [
        "constraints.max_drop",
        "=3",
        "steps.9={use = 'simplify'}",
        "steps.9.samples=3",
        "steps.first.samples=3",
        "steps.0.samples.more=3",
        "data.metric.name=3",
        "data.metric.name.first=3",
    ],
)
def test_set_of_no_place_is_refused(path, change):
    with pytest.raises(InputError):
        load(path, [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("modle.path=x.onnx", "key 'modle'; did you mean 'model'"),
        ("model.entri=x", r"key in \[model\] 'entri'; did you mean 'entry'"),
        ("model.inputs.image.shap=[1]", r"\[model.inputs.image\] 'shap'; did you mean 'shape'"),
        ("model.axes.batch.bst=1", r"\[model.axes.batch\] 'bst'; did you mean 'best'"),
        ("data.metrik=mse", r"\[data\] 'metrik'; did you mean 'metric'"),
        ("constraints.max_dorp=1", r"\[constraints\] 'max_dorp'; did you mean 'max_drop'"),
        ("measure.buget=1", r"\[measure\] 'buget'; did you mean 'budget'"),
        ("steps.0.sampels=1", "the step 'quantize_static': unknown key 'sampels'; did you mean 'samples'"),
        ("steps.0.use=quantise_static", "unknown step 'quantise_static'; did you mean 'quantize_static'"),
        ("targets.openvin={}", "unknown target 'openvin'; did you mean 'openvino'"),
        ("targets.openvino.thread=1", "unknown option of openvino 'thread'; did you mean 'threads'"),
        ("targets.onnxruntime.cpu=avx", "unknown cpu of onnxruntime 'avx'; did you mean 'avx2'"),
        ("folders=x", "unknown key 'folders'"),
    ],
)
def test_an_unknown_key_names_the_nearest_and_lists_all(path, change, message):
    with pytest.raises(InputError, match=f"{message}.*Known: "):
        load(path, [change])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("constraints.objective=speed", "latency"),
        ("constraints.max_drop=much", "not a drop"),
        ("constraints.max_drop=-0.1", "0 or more"),
        ("constraints.max_drop=-1%", "not a drop"),
        ("constraints.max_drop=nan", "0 or more"),
        ("constraints.max_drop=true", "max_drop"),
        ("measure.budget=0", "measure.budget"),
        ("measure.seed=x", "measure.seed"),
        ("model.threads=0", "model.threads"),
        ("model.inputs.image.dtype=float31", "not a numpy dtype"),
        ("model.inputs.image.shape=[]", "shape"),
        ("model.inputs.image.shape=[0, 3]", "below 1"),
        ("model.inputs.image.shape=3", "shape"),
        ("model.axes.batch={min = 2, best = 1, max = 8}", "not in this order"),
        ("model.axes.batch={max = 0}", "max"),
        ("data.better=up", "higher"),
        ("steps.0.samples=0", "the step 'quantize_static': samples"),
        ("steps.0.calibration=all", "minmax"),
        ("steps.0=7", 'use = "..."'),
        ("steps.0={samples = 3}", 'use = "..."'),
        ("steps=7", "steps"),
        ("targets={}", "targets"),
        ("targets.openvino=3", "targets.openvino"),
        ("targets.openvino.threads=many", "whole number"),
        ("targets.openvino.threads=0", "whole number"),
        ("model=3", "model"),
    ],
)
def test_a_bad_value_is_refused_and_named(path, change, message):
    with pytest.raises(InputError, match=message):
        load(path, [change])


@pytest.mark.parametrize("lacking", ["model", "data", "targets"])
def test_a_table_that_is_missing_is_named(lacking):
    asked = table()
    del asked[lacking]
    with pytest.raises(InputError, match=f"{lacking} is missing"):
        from_table(asked, Path())


@pytest.mark.parametrize("content", ["[model", "model = ", "\N{BYTE ORDER MARK}x"])
def test_what_is_not_toml_is_refused(tmp_path, content):
    file = tmp_path / "recipe.toml"
    file.write_bytes(content.encode("utf-16" if "x" in content else "utf-8"))
    with pytest.raises(InputError, match=r"recipe\.toml is not TOML"):
        load(file)


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path / "recipe.toml")
    with pytest.raises(InputError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("value", "original", "allowed"),
    [
        (0.005, 0.9, 0.005), (0, 0.9, 0.0), (2, 10.0, 2.0), ("0.5pp", 0.9, 0.005), ("1%", 0.9, 0.009),
        ("1%", -5.0, 0.05), ("0.02", 0.9, 0.02), (" 3 % ", 0.5, 0.015), (".5pp", 0.9, 0.005), ("0%", 0.9, 0.0),
    ],
)  # fmt: skip
def test_the_forms_of_max_drop(value, original, allowed):
    assert allowed_drop(value, original) == pytest.approx(allowed)


@pytest.mark.parametrize("value", [-0.1, "-1%", "", "pp", "1 percent", "1e", "0.1.2", True, float("nan"), float("inf")])
def test_what_is_no_drop_is_refused(value):
    with pytest.raises(ValueError, match="is not a drop"):
        allowed_drop(value, 0.9)


def test_a_wrong_order_of_steps_is_refused_before_any_work(path):
    # none of the files that it names is there: only the recipe is looked at
    order = 'steps=[{use = "simplify"}, {use = "export"}]'
    with pytest.raises(InputError, match="'export' takes a torch model, but simplify gives an ONNX file"):
        load(path, [order])
    with pytest.raises(InputError, match="the source gives an ONNX file"):
        from_table(table(steps=[{"use": "export"}]), Path())


@pytest.mark.parametrize(
    ("listed", "completed"),
    [
        ([], ["export", "simplify"]),
        (["export"], ["export", "simplify"]),
        (["simplify"], ["export", "simplify"]),
        (["export", "simplify"], ["export", "simplify"]),
        (["quantize_static"], ["export", "simplify", "quantize_static"]),
        (["export", "quantize_static"], ["export", "simplify", "quantize_static"]),
        (["quantize_static", "simplify"], ["export", "quantize_static", "simplify"]),
    ],
)
def test_export_and_simplify_are_put_in(listed, completed):
    done = steps.complete([steps.get(name)() for name in listed], TorchModel)
    assert [steps.name_of(step) for step in done] == completed


def test_an_unknown_axis_names_the_nearest(path):
    with pytest.raises(InputError, match=r"\[model.axes\] unknown axis 'bach'; did you mean 'batch'"):
        load(path, ["model.axes.bach={max = 4}"])


@pytest.mark.parametrize("model", [{"path": "m.onnx", "entry": "m.py:build"}, {}, {"source": "torch"}])
def test_the_model_needs_exactly_one_place(model):
    with pytest.raises(InputError, match=r"\[model\] needs one of path"):
        from_table(table(model=model), Path()).model_spec()


@pytest.mark.parametrize("data", [{"path": "d.npz", "entry": "d.py:splits"}, {}])
def test_the_data_needs_exactly_one_place(data):
    with pytest.raises(InputError, match=r"\[data\] needs one of path"):
        from_table(table(data=data), Path()).data_place()


def test_a_model_that_no_source_knows_is_refused():
    with pytest.raises(InputError, match=r"Give an \.onnx file"):
        from_table(table(model={"path": "model.xyz"}), Path())


def test_a_recipe_goes_through_json_and_back(path, tmp_path):
    asked = load(path)
    plain = json.loads(json.dumps(asked.plain()))
    assert from_table(plain, tmp_path) == asked
    assert plain["steps"][0]["use"] == "quantize_static" and "folder" not in plain


def test_a_recipe_cannot_be_changed(path):
    asked = load(path)
    with pytest.raises(ValueError, match="frozen"):
        asked.measure.seed = 3


def test_every_step_takes_its_defaults_in_a_recipe_or_asks_for_a_goal():
    for name in steps.names():
        kind = steps.takes(steps.get(name).model_construct())
        source = {"entry": "m.py:build"} if kind is TorchModel else {"path": "m.onnx"}
        given = table(model=source, steps=[{"use": name}])
        try:
            asked = from_table(given, Path())
        except InputError as error:
            assert f"the step '{name}'" in str(error) and (": give " in str(error) or " after " in str(error))
            continue
        assert steps.name_of(asked.steps[0]) == name
        assert recipe.from_table(asked.plain(), Path()) == asked


def test_the_paths_in_steps_are_the_recipes(tmp_path):
    listed = [
        {"use": "prune_channels", "ratio": 0.3, "recover": {"augment": "data.py:flip"}},
        {"use": "recover", "augment": "data.py:flip"},
    ]
    asked = from_table(table(model={"entry": "model.py:build"}, steps=listed), tmp_path)
    first, second = asked.all_steps()[:2]
    assert first.recover.augment == second.augment == f"{tmp_path}/data.py:flip"
    assert asked.plain()["steps"][1]["augment"] == "data.py:flip"


@pytest.mark.parametrize(
    "uses, message",
    [
        (["repair", "quantize_static"], "'repair' mends what a step before it rounded: put it after 'quantize_static'"),
        (["quantize_static", "quantize_weights"], "'quantize_weights' cannot round what 'quantize_static' has rounded"),
        (["quantize_dynamic", "quantize_static"], "'quantize_static' cannot round what 'quantize_dynamic' has rounded"),
        (["quantize_static", "quantize_static"], "cannot round what 'quantize_static' has rounded already"),
        (["quantize_aware", "quantize_dynamic"], "put that after it"),
    ],
)  # fmt: skip
def test_steps_that_make_no_sense_in_their_order_are_refused_before_any_work(uses, message):
    source = {"entry": "m.py:build"} if "quantize_aware" in uses else {"path": "m.onnx"}
    with pytest.raises(InputError, match=message):
        from_table(table(model=source, steps=[{"use": use} for use in uses]), Path())
