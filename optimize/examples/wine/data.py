"""scikit-learn's wine data: 178 wines of three growers, thirteen measures each."""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """90 to learn from and calibrate on, 44 to choose by, 44 to report on."""
    x, y = load_wine(return_X_y=True)
    x, y = x.astype(np.float32), y.astype(np.int64)
    x, rest, y, rest_y = train_test_split(x, y, test_size=88, stratify=y, random_state=0)
    x_validate, x_test, y_validate, y_test = train_test_split(
        rest, rest_y, test_size=44, stratify=rest_y, random_state=0
    )
    return {"calibrate": (x, y), "validate": (x_validate, y_validate), "test": (x_test, y_test)}
