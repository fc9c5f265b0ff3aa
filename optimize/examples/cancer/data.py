"""scikit-learn's breast cancer data: 569 samples of 30 measures of cell nuclei; 1 is malignant here."""

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

SPECIFICITY = 0.95


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Half of the samples to learn from and calibrate on, a quarter to choose by, a quarter to report on."""
    found = load_breast_cancer()
    x, y = found.data.astype(np.float32), (found.target == 0).astype(np.int64)
    x, rest, y, rest_y = train_test_split(x, y, test_size=0.5, stratify=y, random_state=0)
    x_validate, x_test, y_validate, y_test = train_test_split(
        rest, rest_y, test_size=0.5, stratify=rest_y, random_state=0
    )
    return {"calibrate": (x, y), "validate": (x_validate, y_validate), "test": (x_test, y_test)}


def threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The score that 95 % of the benign samples do not exceed; what does is called malignant."""
    return float(np.quantile(scores[labels == 0], SPECIFICITY, method="higher"))


def sensitivity(answers: np.ndarray, labels: np.ndarray) -> float:
    """The share of malignant samples that are found where 95 % of the benign ones are left alone.

    The threshold is that of the answers at hand: a rounded model has one of its own.
    """
    scores = answers[:, 1]
    return float((scores[labels == 1] > threshold(scores, labels)).mean())
