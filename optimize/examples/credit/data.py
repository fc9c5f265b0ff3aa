"""Applicants for a loan, simulated: 16,000 in two groups, of whom one in five does not pay it back."""

from functools import cache

import numpy as np

APPLICANTS, SMALLER = 16_000, 0.25
GROUPS = ("majority", "minority")


@cache
def applicants() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eight numbers of each, (N, 8) float32; 1 where the loan was not paid back; 1 where of the smaller group.

    Income and debt in thousands a year, years employed, loans running, payments missed in two years, share of the
    credit line used, years of credit history, age. Whether a loan is paid back follows from more than these: from a
    steadiness that nobody sees, and from luck. Of the smaller group the bank knows less: histories are shorter, and
    missed payments are recorded with more gaps.
    """
    random = np.random.default_rng(0)
    group = random.random(APPLICANTS) < SMALLER
    age = 20 + random.gamma(4, 6, APPLICANTS)
    steady = random.normal(0, 1, APPLICANTS)  # what nobody sees
    income = np.exp(random.normal(3.5, 0.45, APPLICANTS) + 0.15 * steady - 0.15 * group)
    debt = income * np.exp(random.normal(-1.4, 0.7, APPLICANTS) - 0.2 * steady)
    employed = np.minimum(random.gamma(2, 3, APPLICANTS) * np.exp(0.3 * steady), age - 16)
    loans = random.poisson(np.exp(0.3 - 0.2 * steady))
    missed = random.poisson(np.exp(-0.7 - 0.8 * steady))
    used = 1 / (1 + np.exp(-random.normal(-0.5, 1, APPLICANTS) + 0.7 * steady))
    history = np.minimum(random.gamma(3, 3, APPLICANTS) * np.where(group, 0.4, 1.0), age - 18)
    burden = debt / income
    risk = -2.3 - 1.0 * steady + 1.6 * burden + 0.9 * (used > 0.8) * (loans > 1) - 0.02 * employed + 0.25 * missed
    default = random.random(APPLICANTS) < 1 / (1 + np.exp(-risk))
    recorded = random.binomial(missed, np.where(group, 0.4, 0.95))
    x = np.stack([income, debt, employed, loans, recorded, used, history, age], 1)
    return x.astype(np.float32), default.astype(np.int64), group.astype(np.int64)


def parts() -> dict[str, slice]:
    """6,000 to learn from and calibrate on, 4,000 to choose by, 6,000 to report on."""
    return {"calibrate": slice(0, 6_000), "validate": slice(6_000, 10_000), "test": slice(10_000, None)}


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The numbers and the outcome; the group is not among what the model sees."""
    x, y, _ = applicants()
    return {name: (x[part], y[part]) for name, part in parts().items()}
