"""Models of scikit-learn: what the file says is what the estimator says, and nothing is opened that runs code."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from sklearn import datasets, ensemble, linear_model, neural_network, pipeline, preprocessing, svm, tree

from optimize import sources
from optimize.models import read_onnx
from optimize.sources import ModelSpec
from runtime import engines, host
from runtime.errors import InputError
from runtime.tensors import TensorSpec

pytest.importorskip("skl2onnx", reason="pip install 'edge-optimize[sklearn]'")
skops = pytest.importorskip("skops.io", reason="pip install 'edge-optimize[sklearn]'")
onnx = pytest.importorskip("onnx")

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::sklearn.exceptions.ConvergenceWarning"
)


def scaled(estimator, scaler=preprocessing.StandardScaler):
    return pipeline.make_pipeline(scaler(), estimator)


PLAIN = {
    "logistic": scaled(linear_model.LogisticRegression()),
    "bare logistic": linear_model.LogisticRegression(max_iter=5000),
    "linear svc": scaled(svm.LinearSVC()),
    "hinge": scaled(linear_model.SGDClassifier(random_state=0)),
    "perceptron": scaled(neural_network.MLPClassifier((8,), max_iter=300, random_state=0), preprocessing.MinMaxScaler),
}
TREES = {
    "tree": tree.DecisionTreeClassifier(random_state=0),
    "forest": ensemble.RandomForestClassifier(8, random_state=0),
    "boosting": scaled(ensemble.GradientBoostingClassifier(n_estimators=8, random_state=0)),
    "histogram": ensemble.HistGradientBoostingClassifier(max_iter=8),
    "vectors": scaled(svm.SVC()),
}
REGRESSORS = {
    "least squares": scaled(linear_model.LinearRegression()),
    "ridge": linear_model.Ridge(),
    "forest": ensemble.RandomForestRegressor(8, random_state=0),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))


def loaded(estimator, x, y, folder: Path, **more):
    estimator.fit(x.astype(np.float32), y)  # else a threshold may lie between a number and what float32 makes of it
    skops.dump(estimator, folder / "model.skops")
    return sources.load(ModelSpec("sklearn", str(folder / "model.skops"), trust=True, **more))


def both(original, feeds, engine="onnxruntime", **options):
    specs = read_onnx(original.model).specs
    files = {"model": original.model}
    got = engines.get(engine).open(files, specs, host.facts(), options).run(feeds)["output"]
    return original.open().run(feeds)["output"], got


def domains(original) -> set[str]:
    return {node.domain for node in onnx.load(original.model).graph.node}


@pytest.mark.parametrize("data", [datasets.load_wine, datasets.load_breast_cancer], ids=["three", "two"])
@pytest.mark.parametrize("name", [*PLAIN, *TREES])
def test_a_classifiers_file_gives_the_scores_of_its_classes(name, data, tmp_path):
    x, y = data(return_X_y=True)
    original = loaded({**PLAIN, **TREES}[name], x, y, tmp_path)
    wanted, got = both(original, {"x": x.astype(np.float32)})
    assert wanted.shape == got.shape == (len(x), len(set(y)))
    np.testing.assert_allclose(wanted, got, atol=1e-4)
    assert (domains(original) == {""}) == (name in PLAIN)
    assert "classes 0, 1" in original.notes[0]


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_regressors_file_gives_one_number_a_sample(name, tmp_path):
    x, y = datasets.load_diabetes(return_X_y=True)
    original = loaded(REGRESSORS[name], x, y, tmp_path)
    wanted, got = both(original, {"x": x.astype(np.float32)})
    assert wanted.shape == got.shape == (len(x),)
    np.testing.assert_allclose(wanted, got, rtol=1e-4)


def test_thresholds_between_two_float32_numbers_part_them_as_the_trees_do(tmp_path):
    """Of float64, which lie so; rounded to the nearest they sent five of these rows the other way."""
    x, y = datasets.load_diabetes(return_X_y=True)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(ensemble.HistGradientBoostingRegressor(max_iter=40).fit(x[:250], y[:250])))
    original = sources.load(ModelSpec("sklearn", str(path), trust=True))
    np.testing.assert_allclose(*both(original, {"x": x.astype(np.float32)}), rtol=1e-4)


def test_splits_by_category_are_refused(tmp_path):
    x = np.random.default_rng(0).integers(0, 8, (400, 2))
    trees = ensemble.HistGradientBoostingRegressor(max_iter=3, categorical_features=[0])
    with pytest.raises(InputError, match=r"cannot be converted: skl2onnx has no splits by category"):
        loaded(trees, x, np.isin(x[:, 0], [1, 4, 6]), tmp_path)


def test_what_is_linear_runs_on_every_engine(tmp_path):
    pytest.importorskip("openvino", reason="pip install 'edge-optimize[openvino]'")
    x, y = datasets.load_wine(return_X_y=True)
    original = loaded(PLAIN["logistic"], x, y, tmp_path)
    np.testing.assert_allclose(*both(original, {"x": x.astype(np.float32)}, "openvino", precision="f32"), atol=1e-4)


def test_columns_of_text_and_numbers_are_inputs_by_name(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pip install 'edge-optimize[sklearn]'")
    from sklearn.compose import make_column_transformer

    random = np.random.default_rng(0)
    colour, size = random.choice(["red", "blue"], 200), random.normal(size=200).astype(np.float32)
    y = ((colour == "red") + (size > 0)) % 2
    steps = make_column_transformer(
        (preprocessing.OneHotEncoder(), ["colour"]), (preprocessing.StandardScaler(), ["size"])
    )
    model = pipeline.make_pipeline(steps, tree.DecisionTreeClassifier(random_state=0))
    model.fit(pandas.DataFrame({"colour": colour, "size": size}), y)
    skops.dump(model, tmp_path / "model.skops")
    inputs = (TensorSpec("colour", "str", ("batch", 1)), TensorSpec("size", "float32", ("batch", 1)))
    original = sources.load(ModelSpec("sklearn", str(tmp_path / "model.skops"), inputs=inputs, trust=True))
    wanted, got = both(original, {"colour": colour.astype(object)[:, None], "size": size[:, None]})
    assert (wanted.argmax(1) == y).mean() > 0.9
    np.testing.assert_allclose(wanted, got, atol=1e-6)


def test_a_callable_is_taken_where_the_source_is_named(tmp_path):
    (tmp_path / "model.py").write_text(
        "from sklearn import datasets, linear_model\n"
        "def build():\n    return linear_model.Ridge().fit(*datasets.load_diabetes(return_X_y=True))\n"
    )
    place = f"{tmp_path}/model.py:build"
    assert sources.load(ModelSpec("sklearn", place)).inputs == (TensorSpec("x", "float32", ("batch", 10)),)
    with pytest.raises(InputError, match=r"say source = 'sklearn' in \[model\]"):
        sources.load(ModelSpec("torch", place))


def test_a_pickle_is_not_opened_without_trust(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    for name in ("model.pkl", "model.joblib"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError, match=r"runs code of its own.*--trust.*skops"):
            sources.load(ModelSpec("sklearn", str(tmp_path / name)))
    assert not (tmp_path / "exploded").exists()


def test_types_that_skops_does_not_know_are_named(tmp_path):
    x, y = datasets.load_iris(return_X_y=True)
    skops.dump(tree.DecisionTreeClassifier().fit(x, y), tmp_path / "model.skops")
    with pytest.raises(InputError, match=r"sklearn\.tree\._tree\.Tree; --trust"):
        sources.load(ModelSpec("sklearn", str(tmp_path / "model.skops")))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (linear_model.Ridge(), "Ridge that was never fitted"),
        (np.zeros(3), "a ndarray, not an estimator"),
        (
            preprocessing.StandardScaler().fit(np.eye(3)),
            "a StandardScaler, not an estimator of scikit-learn that predicts",
        ),
    ],
    ids=["not fitted", "an array", "a scaler"],
)
def test_what_is_no_fitted_estimator_is_refused(found, words, tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(found))
    with pytest.raises(InputError, match=words):
        sources.load(ModelSpec("sklearn", str(tmp_path / "model.pkl"), trust=True))


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("name", ["model.skops", "model.pkl"])
def test_a_damaged_file_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        sources.load(ModelSpec("sklearn", str(tmp_path / name), trust=True))


def test_trees_are_refused_before_any_work_where_a_target_has_none(tmp_path):
    from optimize import recipe
    from optimize.progress import Progress
    from optimize.subject import prepare

    x, y = datasets.load_iris(return_X_y=True)
    loaded(TREES["tree"], x, y, tmp_path)
    np.savez(tmp_path / "data.npz", x=x.astype(np.float32), y=y)
    (tmp_path / "recipe.toml").write_text(
        "[model]\npath = 'model.skops'\ntrust = true\n[data]\npath = 'data.npz'\n"
        "[targets.openvino]\n[targets.onnxruntime]\n"
    )
    with pytest.raises(InputError, match=r"TreeEnsembleClassifier, which of the targets onnxruntime, reference alone"):
        prepare(recipe.load(tmp_path / "recipe.toml"), Progress(1, silent=True), None)


def test_two_conversions_are_the_same_bytes(tmp_path, monkeypatch):
    x, y = datasets.load_iris(return_X_y=True)
    made = []
    for name in ("first", "second"):
        monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / name))
        made.append(loaded(PLAIN["logistic"], x, y, tmp_path).model)
    assert made[0] != made[1] and made[0].read_bytes() == made[1].read_bytes()
