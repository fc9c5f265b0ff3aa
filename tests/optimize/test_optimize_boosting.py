"""XGBoost and LightGBM: the file says what the trees say, or is refused; half a file ends no process of ours."""

import re
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn import datasets, pipeline, preprocessing

from optimize import sources
from optimize.models import read_onnx
from optimize.sources import ModelSpec, _boosting
from runtime import engines, host
from runtime.errors import EngineMissing, InputError

xgboost = pytest.importorskip("xgboost", reason="pip install 'edge-optimize[boosting]'")
lightgbm = pytest.importorskip("lightgbm", reason="pip install 'edge-optimize[boosting]'")
pytest.importorskip("onnxmltools", reason="pip install 'edge-optimize[boosting]'")
skops = pytest.importorskip("skops.io", reason="pip install 'edge-optimize[sklearn]'")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")

FEW = {"n_estimators": 10, "max_depth": 3}
LEAVES = {"n_estimators": 10, "verbose": -1, "min_child_samples": 5}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))


def table(name: str):
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return x.astype(np.float32), y


def saved(model, folder: Path, suffix: str) -> Path:
    path = folder / f"model.{suffix}"
    if suffix == "txt":
        model.booster_.save_model(path)
    elif suffix in ("ubj", "json"):
        model.save_model(path)
    else:
        (skops if suffix == "skops" else joblib).dump(model, path)
    return path


def load(path: Path, trust: bool = False):
    return sources.load(ModelSpec("sklearn", str(path), trust=trust))


def agree(original, x, tolerance=1e-5):
    session = engines.get("onnxruntime").open(
        {"model": original.model}, read_onnx(original.model).specs, host.facts(), {}
    )
    missing = np.where(np.random.default_rng(0).random(x.shape) < 0.2, np.nan, x).astype(np.float32)
    for feeds in ({"x": x}, {"x": missing}):
        wanted, got = original.open().run(feeds)["output"], session.run(feeds)["output"]
        assert wanted.shape == got.shape
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)
    return original.open().run({"x": x})["output"]


@pytest.mark.parametrize(
    ("suffix", "data"), [("ubj", "wine"), ("json", "breast_cancer"), ("joblib", "breast_cancer"), ("skops", "wine")]
)
def test_xgboosts_classes(suffix, data, tmp_path):
    x, y = table(data)
    model = xgboost.XGBClassifier(**FEW).fit(x, y)
    path = saved(model, tmp_path, suffix)
    assert sources.detect(str(path)) == "sklearn"
    found = agree(load(path, trust=suffix in ("joblib", "skops")), x)
    np.testing.assert_allclose(found, model.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "data"), [("txt", "wine"), ("txt", "breast_cancer"), ("joblib", "breast_cancer"), ("skops", "wine")]
)
def test_lightgbms_classes(suffix, data, tmp_path):
    x, y = table(data)
    model = lightgbm.LGBMClassifier(**LEAVES).fit(x, y)
    path = saved(model, tmp_path, suffix)
    assert sources.detect(str(path)) == "sklearn"
    found = agree(load(path, trust=suffix in ("joblib", "skops")), x)
    np.testing.assert_allclose(found, model.predict_proba(x), atol=1e-6)


@pytest.mark.parametrize(
    "model",
    [
        xgboost.XGBRegressor(**FEW),
        xgboost.XGBRegressor(objective="count:poisson", **FEW),
        xgboost.XGBRFRegressor(**FEW),
        lightgbm.LGBMRegressor(**LEAVES),
        lightgbm.LGBMRegressor(objective="poisson", **LEAVES),
        lightgbm.LGBMRegressor(boosting_type="dart", **LEAVES),
    ],
    ids=["xgboost", "xgboost's poisson", "xgboost's forest", "lightgbm", "lightgbm's poisson", "lightgbm's dart"],
)
def test_regressors(model, tmp_path):
    x, y = table("diabetes")
    model.fit(x, y)
    assert agree(load(saved(model, tmp_path, "joblib"), trust=True), x).shape == (len(x),)
    booster = model.get_booster() if hasattr(model, "get_booster") else model.booster_
    np.testing.assert_allclose(_boosting.adopted(booster, "a booster").predict(x), model.predict(x), rtol=1e-5)


@pytest.mark.parametrize("kind", [xgboost.XGBClassifier, lightgbm.LGBMClassifier])
def test_trees_after_scaling(kind, tmp_path):
    x, y = table("wine")
    settings = FEW if kind is xgboost.XGBClassifier else LEAVES
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), kind(**settings)).fit(x, y)
    agree(load(saved(model, tmp_path, "joblib"), trust=True), x)  # samples' own numbers are XGBoost's thresholds


def test_numbers_beside_a_threshold_go_where_the_trees_send_them(tmp_path):
    """0.1 + 0.2 as float64 lies between two of float32, and nearer to the upper one, which must go to the right."""
    upper = np.float32(0.3)
    lower = np.nextafter(upper, np.float32(0))
    x = np.array([lower, upper] * 50, np.float32)[:, None]
    model = lightgbm.LGBMRegressor(n_estimators=1, min_child_samples=1, verbose=-1, max_bin=1000)
    path = saved(model.fit(x.astype(np.float64), x[:, 0] == upper), tmp_path, "txt")
    threshold = float(lower) + 0.9 * (float(upper) - float(lower))
    text = path.read_text()
    path.write_text(re.sub(r"(?m)^threshold=.*$", f"threshold={threshold!r}", text))
    wanted = lightgbm.Booster(model_file=path).predict(x)
    assert float(lower) <= threshold < float(upper) == np.float32(threshold) and wanted[0] < wanted[1]
    agree(load(path), x)


def test_trees_that_learned_from_named_columns(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pip install 'edge-optimize[sklearn]'")
    x, y = table("wine")
    model = xgboost.XGBClassifier(**FEW).fit(pandas.DataFrame(x, columns=[f"measure {i}" for i in range(13)]), y)
    agree(load(saved(model, tmp_path, "joblib"), trust=True), x)


def test_a_callable_may_return_a_booster(tmp_path):
    x, y = table("wine")
    saved(lightgbm.LGBMClassifier(**LEAVES).fit(x, y), tmp_path, "txt")
    saved(xgboost.XGBClassifier(**FEW).fit(x, y), tmp_path, "ubj")
    (tmp_path / "model.py").write_text(
        "import lightgbm, xgboost\n"
        f"def light():\n    return lightgbm.Booster(model_file={str(tmp_path / 'model.txt')!r})\n"
        f"def extreme():\n    return xgboost.Booster(model_file={str(tmp_path / 'model.ubj')!r})\n"
    )
    for name in ("light", "extreme"):
        assert agree(load(Path(f"{tmp_path}/model.py:{name}")), x).shape == (len(x), 3)


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (
            lightgbm.LGBMClassifier(boosting_type="rf", subsample_freq=1, subsample=0.5, **LEAVES),
            "wine",
            "LGBMClassifier",
        ),
        (lightgbm.LGBMClassifier(objective="multiclassova", **LEAVES), "wine", "objective 'multiclassova'"),
        (lightgbm.LGBMRegressor(linear_tree=True, **LEAVES), "diabetes", "objective 'regression'"),
        (lightgbm.LGBMRegressor(reg_sqrt=True, **LEAVES), "diabetes", "objective 'regression'"),
        (lightgbm.LGBMRegressor(objective="mape", **LEAVES), "diabetes", "mape"),
        (xgboost.XGBRegressor(booster="gblinear"), "diabetes", "booster 'gblinear'"),
        (xgboost.XGBRegressor(booster="dart", **FEW), "diabetes", "booster 'dart'"),
    ],
    ids=["forest", "one against all", "linear trees", "square root", "mape", "gblinear", "dart"],
)
def test_what_the_converter_does_not_know_is_refused(model, data, words, tmp_path):
    path = saved(model.fit(*table(data)), tmp_path, "joblib")
    with pytest.raises(InputError, match=rf"{path}.*{words}"):
        load(path, trust=True)


@pytest.mark.parametrize("suffix", ["ubj", "json", "txt"])
def test_half_a_file_is_refused(suffix, tmp_path):
    x, y = table("wine")
    model = (lightgbm.LGBMClassifier(**LEAVES) if suffix == "txt" else xgboost.XGBClassifier(**FEW)).fit(x, y)
    path = saved(model, tmp_path, suffix)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"model\.\w+ cannot be read by \w+; it is damaged, or not all there"):
        load(path)


def test_json_and_text_of_another_kind_are_not_claimed(tmp_path):
    for name, content in (("notes.txt", "a tree\n"), ("config.json", '{"learn": 1}'), ("empty.txt", "")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="not a model that any source knows"):
            sources.detect(str(tmp_path / name))
        with pytest.raises(InputError, match=rf"{name} is no model of (xgboost|lightgbm), as .*save_model"):
            load(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "nowhere.ubj")


@pytest.mark.parametrize("suffix", ["ubj", "txt", "joblib"])
def test_a_library_that_is_missing_is_named(suffix, tmp_path, monkeypatch):
    x, y = table("wine")
    model = (lightgbm.LGBMClassifier(**LEAVES) if suffix == "txt" else xgboost.XGBClassifier(**FEW)).fit(x, y)
    path = saved(model, tmp_path, suffix)
    monkeypatch.setitem(sys.modules, "lightgbm" if suffix == "txt" else "xgboost", None)
    with pytest.raises(EngineMissing, match=r"(xgboost|lightgbm).*: pip install 'edge-optimize\[boosting\]'"):
        load(path, trust=True)


def test_boosted_trees_are_refused_before_any_work_where_a_target_has_none(tmp_path):
    from optimize import recipe
    from optimize.progress import Progress
    from optimize.subject import prepare

    x, y = table("wine")
    saved(lightgbm.LGBMClassifier(**LEAVES).fit(x, y), tmp_path, "txt")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    text = "[model]\npath = 'model.txt'\n[data]\npath = 'data.npz'\n[targets.{}]\n[targets.onnxruntime]\n"
    (tmp_path / "recipe.toml").write_text(text.format("openvino"))
    with pytest.raises(InputError, match=r"TreeEnsembleClassifier, which of the targets onnxruntime, reference alone"):
        prepare(recipe.load(tmp_path / "recipe.toml"), Progress(1, silent=True), None)
    (tmp_path / "recipe.toml").write_text(text.format("reference"))
    subject = prepare(recipe.load(tmp_path / "recipe.toml"), Progress(1, silent=True), None)
    assert "classes 0, 1, 2" in subject.notes[0]
