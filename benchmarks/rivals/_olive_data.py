"""Calibration samples as Olive reads them; imported by Olive, in its own environment."""

from typing import Any

import numpy as np
from olive.data.registry import Registry
from torch.utils.data import Dataset


class Samples(Dataset[Any]):
    """An .npz of arrays by input: a dictionary and no label for each sample."""

    def __init__(self, place: str) -> None:
        with np.load(place) as stored:
            self.arrays = dict(stored)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, row: int) -> tuple[dict[str, Any], int]:
        return {name: value[row] for name, value in self.arrays.items()}, 0


def peer_samples(place: str, **_: Any) -> Samples:
    return Samples(place)


Registry.register_dataset("peer_samples")(peer_samples)
