"""A shop's visits, simulated: 400 users, 600 items; a visit shows a hundred items, of which five are taken."""

from functools import cache

import numpy as np

USERS, ITEMS, AGES, CATEGORIES = 400, 600, 5, 12
VISITS, SHOWN, TAKEN, K = 10_000, 100, 5, 10
SPLITS = {"calibrate": slice(0, 6_000), "validate": slice(6_000, 7_500), "test": slice(7_500, None)}
Visits = tuple[np.ndarray, np.ndarray, np.ndarray]


@cache
def visits() -> Visits:
    """Users (N, 2): number and age group; items (N, 100, 2): number and category; and 1.0 where taken, (N, 100).

    What is taken follows from an item's popularity, from how its tastes, which nobody sees, go with the user's, and
    from chance. Tastes go by category and age in part.
    """
    random = np.random.default_rng(0)
    age, category = random.integers(0, AGES, USERS), random.integers(0, CATEGORIES, ITEMS)
    users = 0.6 * random.normal(size=(AGES, 8))[age] + 0.8 * random.normal(size=(USERS, 8))
    items = 0.8 * random.normal(size=(CATEGORIES, 8))[category] + 0.6 * random.normal(size=(ITEMS, 8))
    popularity = random.normal(0, 1.0, ITEMS)
    user = random.integers(0, USERS, VISITS)
    shown = np.argsort(random.random((VISITS, ITEMS), np.float32), 1)[:, :SHOWN]
    wish = popularity[shown] + 0.55 * np.einsum("vd,vid->vi", users[user], items[shown])
    wish += random.gumbel(size=wish.shape)
    taken = wish >= np.sort(wish, 1)[:, -TAKEN, None]
    return (
        np.stack([user, age[user]], 1).astype(np.int64),
        np.stack([shown, category[shown]], 2).astype(np.int64),
        taken.astype(np.float32),
    )


def splits() -> dict[str, dict[str, np.ndarray]]:
    """6,000 visits to learn from and calibrate on, 1,500 to choose by, 2,500 to report on."""
    user, items, taken = visits()
    return {name: {"user": user[part], "items": items[part], "y": taken[part]} for name, part in SPLITS.items()}


def recall_at_10(scores: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Of each visit: the share of what was taken that is among the ten best scores."""
    best = np.argsort(-scores, 1, kind="stable")[:, :K]
    return np.take_along_axis(taken, best, 1).sum(1) / taken.sum(1)


def trivial() -> np.ndarray:
    """Scores on test without a model: how often each item was taken where it was shown, whoever the user is."""
    data = splits()
    items, taken = data["calibrate"]["items"][..., 0].reshape(-1), data["calibrate"]["y"].reshape(-1)
    share = np.bincount(items, taken, ITEMS) / np.maximum(1, np.bincount(items, minlength=ITEMS))
    return share[data["test"]["items"][..., 0]].astype(np.float32)
