"""XGBoost and LightGBM: their own files, read as estimators of scikit-learn, and onnxmltools' converters of them.

A converter that does not know a setting leaves it out in silence, so its file is held against the trees themselves.
"""

import itertools
import json
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from runtime import engines, host
from runtime.bundle import sha256
from runtime.cache import address, made
from runtime.contender import Worker
from runtime.engines import Session, library
from runtime.errors import EngineError, InputError
from runtime.tensors import Array

EXTRA = "boosting"
LIBRARIES = ("xgboost", "lightgbm")
ROWS, TOLERANCE = 512, 1e-4  # of the check; the largest relative error of its answers (Euclidean norm)
NOTHING = np.float32(1e-35)  # and what is nearer to it, LightGBM reads as zero, and has it as a threshold
MEMORY = 8 * 2**30  # of reading a file for the first time: a damaged one may ask for all that there is
_BEGINS = {".ubj": rb"\{", ".json": rb'\s*\{\s*"(learner|version)"', ".txt": rb"tree\s+version="}


class LightGBM:
    """A booster out of LightGBM's own file, with as much of an estimator's face as is asked for here."""

    def __init__(self, booster: Any) -> None:
        self.booster_ = booster
        self.n_features_in_ = int(booster.num_feature())
        self.objective = str(booster.params.get("objective"))
        if self.objective.startswith(("binary", "multiclass")):
            self.classes_ = np.arange(max(2, int(booster.params.get("num_class", 1))))
            self.predict_proba = self._probabilities

    def predict(self, x: Array) -> Array:
        """What the booster says of each row."""
        return np.asarray(self.booster_.predict(x))

    def _probabilities(self, x: Array) -> Array:
        found = self.predict(x)
        return found if found.ndim == 2 else np.stack([1 - found, found], axis=1)


def claims(place: str) -> bool:
    """XGBoost's .ubj and .json and LightGBM's .txt, told from other JSON and text by how they begin."""
    path = Path(place)
    if path.suffix not in _BEGINS:
        return False
    try:
        with path.open("rb") as stream:
            return re.match(_BEGINS[path.suffix], stream.read(100)) is not None
    except OSError:
        return True  # whoever reads it says that it is not there


def read(path: Path) -> Any:
    """The estimator in a file of either library; reading one runs no code of the file's.

    Raises:
        InputError: it is damaged, or none of theirs.
        EngineMissing: the library is not installed.
    """
    name = _library(path)
    if not claims(str(path)):
        how = "booster.save_model('model.txt')" if name == "lightgbm" else "model.save_model('model.ubj')"
        raise InputError(f"{path} is no model of {name}, as {how} writes one.")
    library(name, EXTRA)
    whole = address(source=name, file=sha256(path), versions=host.versions((name, f"{name}-cpu")))
    made(whole, f"read {name}'s file for the first time", partial(_try, path))
    return _opened(path)


def _try(path: Path, folder: Path) -> dict[str, Any]:
    """Read a file in a process of its own: of both libraries it was seen that half a file ends the process."""
    worker = Worker(path.name, memory_bytes=MEMORY)
    try:
        worker.call("optimize.sources._boosting:features", path=str(path))
    except EngineError as error:
        words = " ".join(str(error).split("Stack trace")[0].split())[:300]
        read = f"{path} cannot be read by {_library(path)}; it is damaged, or not all there"
        raise InputError(f"{read}: {words}") from error
    finally:
        worker.close()
    folder.mkdir(parents=True)
    return {}


def features(path: str) -> int:
    """How many a file's trees take, having asked them once."""
    estimator = _opened(Path(path))
    estimator.predict(np.zeros((1, estimator.n_features_in_), np.float32))
    return int(estimator.n_features_in_)


def _opened(path: Path) -> Any:
    return adopted(library(_library(path), EXTRA).Booster(model_file=str(path)), str(path))


def _library(path: Path) -> str:
    return "lightgbm" if path.suffix == ".txt" else "xgboost"


def adopted(found: Any, place: str) -> Any:
    """A booster as an estimator, an estimator without the names of its columns; anything else as it is."""
    if _is(found, "lightgbm", "Booster"):
        return LightGBM(found)
    if _is(found, "xgboost", "Booster"):
        objective = json.loads(found.save_config())["learner"]["objective"]["name"]
        kind = "XGBClassifier" if objective.startswith(("binary:", "multi:")) else "XGBRegressor"
        booster, found = found, getattr(library("xgboost", EXTRA), kind)()
        booster.set_attr(scikit_learn=None)  # it may name a ranker, say, that is no regressor to load_model
        found.load_model(bytearray(booster.save_raw()))
    for part in parts(found):
        if hasattr(part, "get_booster"):
            kind = json.loads(part.get_booster().save_config())["learner"]["gradient_booster"]["name"]
            if kind != "gbtree":
                raise InputError(f"{place} has XGBoost's booster '{kind}'; onnxmltools can convert gbtree alone.")
            part.get_booster().feature_names = None  # with them arrays are refused, here and by the converter
    return found


def parts(estimator: Any) -> Iterator[Any]:
    """The boosted trees in an estimator: itself, or steps of a pipeline."""
    for part in (estimator, *getattr(estimator, "named_steps", {}).values()):
        if isinstance(part, LightGBM) or type(part).__module__.partition(".")[0] in LIBRARIES:
            yield part


def register() -> None:
    """Tell skl2onnx of the converters for those of the libraries that are in use."""
    if not any(name in sys.modules for name in LIBRARIES):
        return
    update = library("skl2onnx", "sklearn").update_registered_converter
    shapes = library("skl2onnx.common.shape_calculator", "sklearn")
    linear = shapes.calculate_linear_classifier_output_shapes, shapes.calculate_linear_regressor_output_shapes
    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    for name, prefix, module, convert in (
        ("xgboost", "XGB", "XGBoost", "convert_xgboost"),
        ("lightgbm", "LGBM", "LightGbm", "convert_lightgbm"),
    ):
        if name not in sys.modules:
            continue
        convert = getattr(library(f"onnxmltools.convert.{name}.operator_converters.{module}", EXTRA), convert)
        for kind in ("Classifier", "Regressor", "RFClassifier", "RFRegressor"):
            if own := getattr(sys.modules[name], prefix + kind, None):
                classes = kind.endswith("Classifier")
                update(own, name + own.__name__, linear[not classes], convert, options=options if classes else None)


def exact_thresholds() -> AbstractContextManager[object]:
    """While it lasts, LightGBM's thresholds are written as the float32 below, to which float32 compares alike."""
    if "lightgbm" not in sys.modules:
        return nullcontext()
    module = library("onnxmltools.convert.lightgbm.operator_converters.LightGbm", EXTRA)
    return patch.object(module, "dump_booster_model", partial(_with_floors, module.dump_booster_model))


def _with_floors(dump: Callable[..., Any], *args: Any, **more: Any) -> Any:
    found, seen = dump(*args, **more)
    for node in itertools.chain.from_iterable(seen["decision_nodes"]):
        if node["decision_type"] == "<=":
            exact = np.float64(node["threshold"])
            near = np.float32(exact)
            node["threshold"] = float(near if near <= exact else np.nextafter(near, np.float32(-np.inf)))
    return found, seen


def converted(estimator: LightGBM, name: str) -> Any:
    """A booster of LightGBM's as onnxmltools writes it, its one input by this name."""
    kind = library("onnxmltools.convert.common.data_types", EXTRA).FloatTensorType
    inputs = [(name, kind([None, estimator.n_features_in_]))]
    return library("onnxmltools", EXTRA).convert_lightgbm(estimator.booster_, initial_types=inputs, zipmap=False)


def check(proto: Any, part: Any, original: Session) -> None:
    """Raise InputError where a file answers otherwise than the trees it was made of, on rows around their thresholds.

    Seen to be left out by onnxmltools 1.16: of LightGBM the mean of a forest, linear trees, zeros that are missing
    values, one-against-all, another sigmoid and `reg_sqrt`; of XGBoost reg:logistic and several targets.
    """
    from optimize.models import write_onnx

    with tempfile.TemporaryDirectory() as folder:
        model = write_onnx(proto, Path(folder) / "model.onnx")
        session = engines.get("onnxruntime").open({"model": model.path}, model.specs, host.facts(), {})
        feeds = {model.specs.inputs[0].name: _rows(proto, int(model.specs.inputs[0].shape[1]))}
        error, _ = engines.relative_error(session.run(feeds), original.run(feeds))
    if not error <= TOLERANCE:
        objective = getattr(part, "objective_", None) or part.objective
        raise InputError(
            f"onnxmltools' file of this {type(part).__name__} answers otherwise than its trees, by {error:.2g} "
            f"(relative): it does not know the objective '{objective}', or another of its settings."
        )


def _rows(proto: Any, features: int) -> Array:
    """Numbers at and near thresholds of each feature, among them zeros (float32, [rows, features])."""
    from onnx import helper

    known = defaultdict(list)
    for node in proto.graph.node:
        facts = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        for feature, value, mode in zip(
            *(facts.get(f"nodes_{key}", ()) for key in ("featureids", "values", "modes")), strict=True
        ):
            if mode != b"LEAF":
                known[feature].append(value)
    random = np.random.default_rng(0)
    rows = np.zeros((ROWS, features))
    for feature, values in known.items():
        width = np.std(values) or abs(values[0]) or 1.0
        off = random.choice([0, 1], ROWS) * random.normal(0, 0.1 * width, ROWS)  # of half of them, nothing
        rows[:, feature] = random.choice(values, ROWS) + off
    zeros = (random.random(rows.shape) < 0.1) | (np.abs(rows) <= NOTHING)
    return np.where(zeros, 0, rows).astype(np.float32)


def _is(found: Any, package: str, name: str) -> bool:
    return type(found).__module__.partition(".")[0] == package and type(found).__name__ == name
