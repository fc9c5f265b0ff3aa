"""scikit-learn's diabetes data: 442 patients, ten measures, and how far the disease has gone a year later."""

import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """222 to learn from and calibrate on, 110 to choose by, 110 to report on."""
    x, y = load_diabetes(return_X_y=True)
    x, y = x.astype(np.float32), y.astype(np.float32)
    x, rest, y, rest_y = train_test_split(x, y, test_size=220, random_state=0)
    x_validate, x_test, y_validate, y_test = train_test_split(rest, rest_y, test_size=110, random_state=0)
    return {"calibrate": (x, y), "validate": (x_validate, y_validate), "test": (x_test, y_test)}
