"""An image processor of transformers as preprocessing that a device does by Pillow alone, held against the original."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import InputError
from runtime.pre import PreSpec
from runtime.tensors import TensorSpec

FILE = "preprocessor_config.json"
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
KNOWN = {"do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order"}
WARPED = 384  # pixels, from which on ConvNeXt's processor cuts nothing off
SIZES = ((61, 47), (230, 333))  # of the pictures on which both are compared
SAME = 1e-5


def read(place: str) -> dict[str, Any] | None:
    """The processor's settings beside a model; None where there are none."""
    path = Path(place) / FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else None


def spec(
    transformers: Any, place: str, options: Mapping[str, Any], config: Mapping[str, Any], inputs: Sequence[TensorSpec]
) -> tuple[tuple[PreSpec, ...], list[str]]:
    """The preprocessing, and what a reader should know of it.

    Raises:
        InputError: the processor does what `runtime.pre.image` does not.
    """
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(place, backend="pil", **options)
        config = processor.to_dict()  # with what its class has by default
    except Exception as error:  # of a class that is there for torchvision only, or not at all
        processor, words = None, type(error).__name__
    try:
        settings = _settings(config)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(
            f"{place}/{FILE} asks for what the preprocessing 'image' does not do: {error}. Say by "
            f'[[pre]] kind = "image" what comes closest, and take {FILE} out of the folder.'
        ) from error
    found = PreSpec("image", (), settings, {})
    if processor is None:
        return (found,), [f"pictures are prepared as {FILE} says; not compared with transformers ({words})"]
    reader = found.open(inputs)
    random = np.random.default_rng(0)
    for height, width in SIZES:
        picture = random.integers(0, 256, (height, width, 3)).astype(np.uint8)
        got = next(iter(reader.batch([reader.sample(picture)]).values()))
        wanted = np.asarray(
            processor(images=picture, return_tensors="np", input_data_format="channels_last")["pixel_values"]
        )
        if got.shape != wanted.shape or not np.allclose(got, wanted, rtol=SAME, atol=SAME):
            raise InputError(
                f"{type(processor).__name__} of {place} does something else with a picture than {FILE} says: give the "
                "model arrays, without this file beside it."
            )
    return (found,), []


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `runtime.pre.image`; raises ValueError, naming what it has not."""
    if odd := [key for key, on in config.items() if key.startswith("do_") and on and key not in KNOWN]:
        raise ValueError(", ".join(odd))
    if config.get("rescale_offset") or config.get("offset"):
        raise ValueError("rescale_offset")
    size = config.get("size") if config.get("do_resize") else None
    crop = config.get("crop_size") if config.get("do_center_crop") else None
    return {
        **_fit(size, _sides(crop) if crop else None, config.get("crop_pct")),
        "filter": FILTERS[int(config.get("resample", 2))],
        "colours": "BGR" if config.get("do_flip_channel_order") else "RGB",
        "scale": float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale") else 1.0,
        **(
            {"mean": _each(config["image_mean"]), "std": _each(config["image_std"])}
            if config.get("do_normalize")
            else {}
        ),
    }


def _fit(size: Any, crop: list[int] | None, share: float | None) -> dict[str, Any]:
    if isinstance(size, Mapping):
        size = {key: value for key, value in size.items() if value}
    if size is None:
        if crop:
            raise ValueError("do_center_crop without do_resize")
        return {}
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        shorter = int(size["shortest_edge"])
        if share:
            square = [shorter, shorter]
            cut = {"size": square, "fit": "crop", "shorter": int(shorter / share)}
            return cut if shorter < WARPED else {"size": square}
        if crop is None or max(crop) > shorter:
            raise ValueError("size = shortest_edge without a crop_size within it")
        return {"size": crop, "fit": "crop", "shorter": shorter}
    sides = _sides(size)
    if crop and crop != sides:
        raise ValueError(f"size = {sides}, stretched, and then crop_size = {crop}")
    return {"size": sides}


def _sides(size: Any) -> list[int]:
    if isinstance(size, int):
        return [size, size]
    if set(size) - {"height", "width"}:
        raise ValueError(f"size = {dict(size)}")
    return [int(size["height"]), int(size["width"])]


def _each(values: Any) -> list[float]:
    return [float(one) for one in (values if isinstance(values, list | tuple) else [values])]
