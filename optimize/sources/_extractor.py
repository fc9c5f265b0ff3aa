"""A feature extractor of transformers as preprocessing that a device does by numpy, held against the original."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime import pre
from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import TensorSpec

FILES = ("preprocessor_config.json", "processor_config.json")  # the second: a processor with its tokenizer
KIND = "audio"
SECONDS = (0.4, 1.1)  # of the sounds on which both are compared
SAME = 1e-3  # both compute spectra in float32, by other libraries


def spec(
    transformers: Any, place: str, options: Mapping[str, Any], inputs: Sequence[TensorSpec]
) -> tuple[tuple[PreSpec, ...], list[str]]:
    """The preprocessing, and what a reader should know of it; none where the extractor is of another kind.

    Raises:
        InputError: it cannot be read, or gives something else for a sound than its settings say.
    """
    file = next((name for name in FILES if (Path(place) / name).is_file()), None)
    if file is None or KIND not in pre.names():
        return (), [f"{place} has nothing beside it that makes its inputs of sound here: the model takes arrays"]
    try:
        extractor = transformers.AutoFeatureExtractor.from_pretrained(place, **options)
    except Exception as error:  # whatever a damaged or foreign file brings up
        words = " ".join(str(error).split())[:300]
        raise InputError(f"{place}/{file} cannot be read by transformers: {words}") from error
    settings = _settings(extractor, {one.name for one in inputs})
    if settings is None:
        return (), [
            f"a {type(extractor).__name__} does what the preprocessing 'audio' does not: the model takes arrays"
        ]
    found = PreSpec(KIND, (), settings, {})
    reader = found.open(inputs)
    random = np.random.default_rng(0)
    for seconds in SECONDS:
        wave = random.uniform(-0.5, 0.5, int(seconds * extractor.sampling_rate)).astype(np.float32)
        got = reader.batch([reader.sample(wave)])
        wanted = extractor(wave, sampling_rate=extractor.sampling_rate, return_tensors="np")
        for name in extractor.model_input_names[:1]:
            one = np.asarray(wanted[name])
            if got[name].shape != one.shape or not np.allclose(got[name], one, atol=SAME):
                raise InputError(
                    f"{type(extractor).__name__} of {place} does something else with a sound than {file} says: give "
                    "the model arrays, without this file beside it."
                )
    return (found,), []


def _settings(extractor: Any, names: set[str]) -> dict[str, Any] | None:
    """Those of `runtime.pre.audio`; None for an extractor that is not known here."""
    common = {"rate": extractor.sampling_rate, "mask": "attention_mask" if "attention_mask" in names else ""}
    kind = type(extractor).__name__
    if kind == "Wav2Vec2FeatureExtractor" and extractor.feature_size == 1:
        return {**common, "features": "wave", "normalize": extractor.do_normalize}
    if kind == "WhisperFeatureExtractor" and not extractor.dither:
        return {
            **common, "features": "log_mel", "samples": extractor.n_samples, "n_fft": extractor.n_fft,
            "hop": extractor.hop_length, "mels": extractor.feature_size, "high": min(8000.0, common["rate"] / 2),
            "drop_last": True, "range": 8.0, "mean": [-4.0], "std": [4.0],
        }  # fmt: skip
    return None
