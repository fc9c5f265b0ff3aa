"""Card payments, simulated: 40,000, of which one in a hundred is fraud."""

from functools import cache

import numpy as np

PAYMENTS, SHARE, UNNOTICED = 40_000, 0.012, 0.15
KINDS = 3  # of fraud


def _numbers(random: np.random.Generator, n: int, kind: int) -> np.ndarray:
    """Nine numbers of each payment of one kind: 0 is honest, 1 tries a stolen card, 2 takes an account over, 3 hides.

    Amount, hour of the day, minutes since the card's last payment, payments in the last hour, kilometres from home, the
    account's age in days, 1 for a new device, 1 for a new shop, the card's usual amount.
    """
    usual = np.exp(random.normal(3.4, 0.6, n))
    amount = usual * np.exp(random.normal((0, -1.2, 1.1, 0.3)[kind], 0.8, n))
    hour = random.normal((14, 13, 11, 14)[kind], (4.5, 7, 8, 5)[kind], n) % 24
    since = np.exp(random.normal((6.3, 2.5, 5.5, 6.0)[kind], 1.5, n))
    recent = random.poisson((0.15, 1.6, 0.3, 0.2)[kind], n)
    away = np.exp(random.normal((1.8, 4.2, 3.8, 2.6)[kind], 1.6, n))
    age = np.exp(random.normal((6.5, 6.4, 6.3, 4.8)[kind], 0.9, n))
    device = random.random(n) < (0.04, 0.35, 0.75, 0.25)[kind]
    shop = random.random(n) < (0.3, 0.8, 0.75, 0.6)[kind]
    return np.stack([amount, hour, since, recent, away, age, device, shop, usual], 1)


@cache
def payments() -> tuple[np.ndarray, np.ndarray]:
    """All of them, (N, 9) float32, and 1 where fraud was reported.

    A part of the fraud is never noticed and counts as honest, as it would in a bank's books.
    """
    random = np.random.default_rng(0)
    kind = np.where(random.random(PAYMENTS) < SHARE, random.integers(1, KINDS + 1, PAYMENTS), 0)
    x = np.zeros((PAYMENTS, 9), np.float32)
    for one in range(KINDS + 1):
        x[kind == one] = _numbers(random, int((kind == one).sum()), one)
    return x, ((kind > 0) & (random.random(PAYMENTS) >= UNNOTICED)).astype(np.int64)


def splits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """20,000 to learn from and calibrate on, 8,000 to choose by, 12,000 to report on."""
    x, y = payments()
    return {
        "calibrate": (x[:20_000], y[:20_000]),
        "validate": (x[20_000:28_000], y[20_000:28_000]),
        "test": (x[28_000:], y[28_000:]),
    }
