"""scikit-learn: a fitted estimator or pipeline, its preprocessing with it; converted by skl2onnx.

So are XGBoost's and LightGBM's, as estimators or in their own files.

The original is the estimator itself. Of a classifier the output is the probabilities of its classes in their order (or,
where it has none, their scores), of a regressor what it predicts. What is linear is written in plain ops, which every
engine has.
"""

import hashlib
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from optimize.models import OnnxModel
from optimize.sources import ModelSpec, Original, _boosting
from optimize.sources._linear import OPSET, in_plain_ops
from optimize.usercode import load_callable
from runtime import host
from runtime.cache import address, made
from runtime.engines import filled, library
from runtime.errors import EngineError, EngineMissing, InputError
from runtime.tensors import Array, TensorSpec

GIVES = OnnxModel
FORKABLE = ("optimize.sources.sklearn", "skl2onnx", "skops.io")
PICKLES = (".pkl", ".pickle", ".joblib")
OPSETS = {"": OPSET, "ai.onnx.ml": 3}  # the latter's newest has another op for trees, which few engines know
OUTPUT = "output"
HISTOGRAMS = "add_tree_to_attribute_pairs_hist_gradient_boosting"  # skl2onnx's function
GRAPH = "sklearn"  # its name; converters draw one at random, and no two files would be the same bytes


def claims(place: str) -> bool:
    """A path that ends in .skops, .joblib or .pkl, or a file of XGBoost's or LightGBM's."""
    return place.endswith((".skops", *PICKLES)) or _boosting.claims(place)


def load(spec: ModelSpec) -> Original:
    """Read the estimator, and convert it; where the recipe names this source, `file.py:callable` may return one.

    Raises:
        InputError: it cannot be read without `--trust`, is no fitted estimator, or has a part that skl2onnx has not.
    """
    if spec.weights:
        raise InputError(f"{spec.place} holds all that it has learned; leave out {spec.weights}.")
    estimator = _read(spec.place, spec.trust)
    inputs = spec.inputs or (TensorSpec("x", "float32", ("batch", _features(estimator, spec.place))),)
    library("skl2onnx", "sklearn")
    versions = host.versions(("skl2onnx", "scikit-learn", "onnxmltools"))
    try:
        content = hashlib.sha256(pickle.dumps(estimator)).hexdigest()
    except Exception as error:  # of a lambda in it, say: whatever its parts raise
        raise InputError(f"{spec.place} cannot be told from others, since it cannot be pickled: {error}") from error
    shapes = [one.to_json() for one in inputs]
    name = address(source="sklearn", estimator=content, inputs=shapes, versions=versions, ops=OPSETS, graph=GRAPH)

    def make(folder: Path) -> Mapping[str, Any]:
        import onnx

        converted = _converted(estimator, inputs, spec.place)
        converted.graph.name = GRAPH
        folder.mkdir(parents=True)
        onnx.save(converted, folder / "model.onnx")
        return {}

    entry = made(name, "convert from scikit-learn", make)
    classes = getattr(estimator, "classes_", None)
    said = "" if classes is None else f"; its outputs are the classes {', '.join(map(str, classes[:10]))} in this order"
    # a tree that learned from float64 may have thresholds between a number and what float32 makes of it
    note = f"converted by skl2onnx {versions['skl2onnx']}; the original is given float32 too, as the engines are{said}"
    return Original(entry.folder / "model.onnx", inputs, lambda: SklearnSession(estimator, inputs), (note,))


class SklearnSession:
    """An estimator as it is, in float64 or as it computes."""

    threads = 1

    def __init__(self, estimator: Any, inputs: tuple[TensorSpec, ...]) -> None:
        self._inputs = inputs
        answers = ("predict_proba", "decision_function", "predict") if hasattr(estimator, "classes_") else ("predict",)
        self._answer = getattr(estimator, next(name for name in answers if hasattr(estimator, name)))

    def run(self, feeds: Mapping[str, Array], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """Outputs by name; see `runtime.engines.Session`."""
        try:
            found = np.asarray(self._answer(self._table(feeds)))
        except Exception as error:
            raise EngineError(f"the estimator raised {type(error).__name__}: {error}") from error
        if self._answer.__name__ == "decision_function" and found.ndim == 1:  # of two classes it gives the second's
            found = np.stack([-found, found], axis=1)
        return filled(out, {OUTPUT: found.astype(np.float32)})

    def inside(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """The estimator's own answer; see `runtime.engines.Session`."""
        table = self._table(feeds)
        return lambda: self._answer(table)

    def _table(self, feeds: Mapping[str, Array]) -> Any:
        if len(self._inputs) == 1:
            return feeds[self._inputs[0].name]
        pandas = library("pandas", "sklearn")
        return pandas.DataFrame({spec.name: feeds[spec.name].reshape(-1) for spec in self._inputs})

    def precision(self) -> dict[str, int]:
        """It does not say."""
        return {}

    def close(self) -> None:
        """Nothing is held but the estimator."""


def _read(place: str, trust: bool) -> Any:
    if ".py:" in place:
        try:
            found = load_callable(place, "model")()
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{place} raised {type(error).__name__}: {error}") from error
        return _checked(found, place)
    path = Path(place)
    if not path.is_file():
        raise InputError(f"no such file: {path} (the model).")
    if place.endswith(PICKLES) and not trust:
        raise InputError(
            f"{path} is a pickle, which runs code of its own when it is opened: --trust where you know whose it is, "
            f"or skops.io.dump(model, '{path.stem}.skops')."
        )
    try:
        if place.endswith(".skops"):
            skops = library("skops.io", "sklearn")
            foreign = skops.get_untrusted_types(file=path)
            if foreign and not trust:
                raise InputError(
                    f"{path} has types that skops does not know to be harmless: {', '.join(foreign)}; "
                    "--trust where you know whose it is."
                )
            found = skops.load(path, trusted=foreign)
        elif place.endswith(PICKLES):
            found = library("joblib", "sklearn").load(path)
        else:
            found = _boosting.read(path)
    except (InputError, EngineError):
        raise
    except ModuleNotFoundError as error:
        extra = _boosting.EXTRA if error.name in _boosting.LIBRARIES else "sklearn"
        raise EngineMissing(f"{path} needs {error.name}: pip install 'edge-optimize[{extra}]'") from error
    except Exception as error:  # whatever a damaged or foreign file brings up
        raise InputError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    return _checked(found, place)


def _with_numbers(make: Callable[..., Any], *args: Any, **facts: Any) -> Any:
    """`make_node`, its truth values as whole numbers."""

    def plain(value: Any) -> Any:
        if not isinstance(value, list | np.ndarray):
            return value
        return [int(one) if isinstance(one, bool | np.bool_) else one for one in value]

    return make(*args, **{key: plain(value) for key, value in facts.items()})


def _with_floors(add: Callable[..., Any], *args: Any, dtype: Any) -> None:
    """skl2onnx's conversion of one tree, its thresholds the float32 below, as those of other trees are there."""
    if args[2].nodes["is_categorical"].any():  # which it would compare as numbers
        raise InputError(
            "skl2onnx has no splits by category, as this HistGradientBoosting has: encode the column before."
        )
    add(*args[:7], dtype == np.float32, dtype=dtype)


def _checked(found: Any, place: str) -> Any:
    found = _boosting.adopted(found, place)
    if isinstance(found, _boosting.LightGBM):
        return found
    base = library("sklearn.base", "sklearn").BaseEstimator
    if not isinstance(found, base) or not hasattr(found, "predict"):
        raise InputError(f"{place} is a {type(found).__name__}, not an estimator of scikit-learn that predicts.")
    try:
        library("sklearn.utils.validation", "sklearn").check_is_fitted(found)
    except Exception as error:
        raise InputError(f"{place} is a {type(found).__name__} that was never fitted: call its fit first.") from error
    return found


def _features(estimator: Any, place: str) -> int:
    try:
        return int(estimator.n_features_in_)
    except AttributeError as error:
        raise InputError(f"{place} does not say how many features it takes: give [model.inputs.x] a shape.") from error


def _converted(estimator: Any, inputs: tuple[TensorSpec, ...], place: str) -> Any:
    types = library("skl2onnx.common.data_types", "sklearn")
    kinds = {"str": types.StringTensorType, "int64": types.Int64TensorType, "float64": types.DoubleTensorType}
    given = [(spec.name, kinds.get(spec.dtype, types.FloatTensorType)([None, *spec.shape[1:]])) for spec in inputs]
    try:
        _boosting.register()
        with _boosting.exact_thresholds():
            written = _as_written(estimator, given)
        proto = in_plain_ops(written, len(getattr(estimator, "classes_", ())), OUTPUT)
        for part in _boosting.parts(estimator):
            if part is estimator and len(inputs) == 1:
                _boosting.check(proto, part, SklearnSession(estimator, inputs))
            else:  # alone, where it is known what comes to its thresholds
                _converted(part, (TensorSpec("x", "float32", ("batch", _features(part, place))),), place)
        return proto
    except (InputError, EngineMissing) as error:
        raise type(error)(f"{place} cannot be converted: {error}") from error
    except Exception as error:  # its own errors share no base
        raise InputError(
            f"skl2onnx cannot convert {place}: {' '.join(str(error).split())[:300] or type(error).__name__}"
        ) from error


def _as_written(estimator: Any, given: list[tuple[str, Any]]) -> Any:
    """The file of skl2onnx's, or for a booster onnxmltools'."""
    if isinstance(estimator, _boosting.LightGBM):
        return _boosting.converted(estimator, given[0][0])
    # divided as scikit-learn does: XGBoost's thresholds are samples' own numbers, so that one more rounding is seen
    options: dict[Any, dict[str, Any]] = {library("sklearn.preprocessing", "sklearn").StandardScaler: {"div": "div"}}
    if hasattr(estimator, "classes_") and not hasattr(estimator, "predict_proba"):
        last = estimator[-1] if hasattr(estimator, "named_steps") else estimator
        options[id(last)] = {"raw_scores": True}
    container = library("skl2onnx.common._container", "sklearn")
    # 1.20 hands truth values to onnx as attributes that hold whole numbers, which protobuf refuses
    numbers = patch.object(container, "make_node", partial(_with_numbers, container.make_node))
    forests = library("skl2onnx.operator_converters.random_forest", "sklearn")
    exact = patch.object(forests, HISTOGRAMS, partial(_with_floors, getattr(forests, HISTOGRAMS)))
    with numbers, exact:
        return library("skl2onnx", "sklearn").convert_sklearn(
            estimator, initial_types=given, options=options, target_opset=OPSETS
        )
