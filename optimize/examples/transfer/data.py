"""scikit-learn's digits: 0 to 7 with many labels, and of 8 and 9 five each to learn from. Pictures 8 x 8, grey."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

FEW = 5  # labelled samples of each of the two new digits


def digits() -> tuple[np.ndarray, np.ndarray]:
    """All of them: (1797, 1, 8, 8) float32 in [0, 1], and which digit each is."""
    found = load_digits()
    return (found.images[:, None] / 16).astype(np.float32), found.target.astype(np.int64)


def many() -> tuple[np.ndarray, np.ndarray]:
    """What the body learns from: the 1,443 pictures of 0 to 7."""
    x, y = digits()
    return x[y < 8], y[y < 8]


def splits(few: int = FEW, draw: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """8 (class 0) or 9 (class 1): ten to learn from and calibrate on, 144 to choose by, 200 to report on."""
    x, y = digits()
    x, y = x[y >= 8], y[y >= 8] - 8
    x, x_test, y, y_test = train_test_split(x, y, test_size=200, stratify=y, random_state=0)
    x, x_validate, y, y_validate = train_test_split(x, y, train_size=2 * few, stratify=y, random_state=draw)
    return {"calibrate": (x, y), "validate": (x_validate, y_validate), "test": (x_test, y_test)}
