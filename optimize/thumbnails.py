"""What a sample looks like, small enough for a report: a picture where it is one, else its first values."""

import base64
import io
from collections.abc import Collection, Mapping

import numpy as np

from optimize.data import Split
from optimize.report import Row
from runtime.tensors import Array

SIDE = 48  # pixels
VALUES = 6
BATCH = 64


def shown(split: Split, samples: Collection[int]) -> dict[int, str]:
    """Of these samples of a split, by number: a PNG as a data URL, or text."""
    found: dict[int, str] = {}
    start = 0
    for feeds, _ in split.batches(BATCH):
        first = next(iter(feeds.values()))
        for number in samples:
            if start <= number < start + len(first):
                found[number] = _one(first[number - start])
        start += len(first)
        if len(found) == len(set(samples)):
            break
    return found


def in_rows(split: Split, rows: Mapping[str, Row], chosen: Mapping[str, str]) -> dict[str, Row]:
    """The rows, in those of the chosen the samples that were called otherwise or moved, as one sees them."""
    details = {name: detail for name in set(chosen.values()) if (detail := rows[name].detail)}
    numbers = {flip.sample for one in details.values() for flip in one.flips}
    seen = shown(split, numbers | {move.sample for one in details.values() for move in one.moved})
    changed = dict(rows)
    for name, detail in details.items():
        flips = [flip.model_copy(update={"shown": seen.get(flip.sample, "")}) for flip in detail.flips]
        moved = [one.model_copy(update={"shown": seen.get(one.sample, "")}) for one in detail.moved]
        detail = detail.model_copy(update={"flips": flips, "moved": moved})
        changed[name] = rows[name].model_copy(update={"detail": detail})
    return changed


def _one(value: Array) -> str:
    picture = _picture(value)
    if picture is None:
        flat = value.reshape(-1)
        more = ", …" if flat.size > VALUES else ""
        return ", ".join(f"{one:.4g}" if value.dtype.kind == "f" else str(one) for one in flat[:VALUES]) + more
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _picture(value: Array) -> Array | None:
    """(H, W) or (H, W, 3) in 0 to 255, stretched over the sample's own range; None where it is no picture."""
    if value.dtype.kind not in "fiu" or value.ndim not in (2, 3):
        return None
    if value.ndim == 3 and value.shape[0] in (1, 3):
        value = value.transpose(1, 2, 0)
    if value.ndim == 3 and value.shape[2] not in (1, 3):
        return None
    if min(value.shape[:2]) < 8:  # a table of numbers rather than a picture
        return None
    value = value.astype(np.float64)
    low, high = value.min(), value.max()
    scaled = ((value - low) / (high - low if high > low else 1) * 255).round().astype(np.uint8)
    return np.asarray(scaled[..., 0] if scaled.ndim == 3 and scaled.shape[2] == 1 else scaled)
