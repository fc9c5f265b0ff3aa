"""scikit-learn's iris data: 150 flowers of three kinds, four lengths each."""

import numpy as np
from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """74 to learn from and calibrate on, 38 to choose by, 38 to report on."""
    x, y = load_iris(return_X_y=True)
    x, y = x.astype(np.float32), y.astype(np.int64)
    x, rest, y, rest_y = train_test_split(x, y, test_size=76, stratify=y, random_state=0)
    x_validate, x_test, y_validate, y_test = train_test_split(
        rest, rest_y, test_size=38, stratify=rest_y, random_state=0
    )
    return {"calibrate": (x, y), "validate": (x_validate, y_validate), "test": (x_test, y_test)}
