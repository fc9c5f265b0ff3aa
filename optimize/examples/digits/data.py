"""scikit-learn's digits: 1,797 scanned digits, 8 x 8 grey levels, upscaled to 32 x 32."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIDE = 32


def upscale(images: np.ndarray) -> np.ndarray:
    """Bilinear, (N, 8, 8) in 0 .. 16 to (N, 1, 32, 32) float32 in [0, 1]."""
    position = np.clip((np.arange(SIDE) + 0.5) * images.shape[1] / SIDE - 0.5, 0, images.shape[1] - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, images.shape[1] - 1)
    part = (position - low).astype(np.float32)
    rows = images[:, low] * (1 - part)[:, None] + images[:, high] * part[:, None]
    both = rows[:, :, low] * (1 - part) + rows[:, :, high] * part
    return (both[:, None] / 16).astype(np.float32)


def shift(feeds: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """Augmentation for training: a batch moved by up to three pixels, since the digits are not all centred."""
    down, right = (int(v) for v in random.integers(-3, 4, 2))
    return {"image": np.roll(feeds["image"], (down, right), (2, 3))}


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The three splits: 797 digits to train and calibrate on, 400 to choose by, 600 to report on."""
    digits = load_digits()
    x, y = upscale(digits.images.astype(np.float32)), digits.target.astype(np.int64)
    x, x_test, y, y_test = train_test_split(x, y, test_size=600, stratify=y, random_state=0)
    x, x_validate, y, y_validate = train_test_split(x, y, test_size=400, stratify=y, random_state=0)
    return {"calibrate": (x, y), "validate": (x_validate, y_validate), "test": (x_test, y_test)}
