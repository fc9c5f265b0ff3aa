"""Mixtures of layers in float and in int8: what is tried, by a known function."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from optimize import mixing
from optimize.recipe import from_table

MS = {"a": 0.3, "b": 0.6, "c": 0.9, "d": 1.2, "e": 1.0, "f": 1.1, "g": 0.7, "free": 0.0}
POWER = np.array([0.3, 0.25, 0.2, 0.15, 0.12, 0.1, 0.05, 0.05])  # of each layer's noise
EVERY = [frozenset(one) for n in range(len(MS) + 1) for one in combinations(MS, n)]


def cost(mixture):
    return sum(MS[name] for name in mixture)


def drops(seed, share):
    """How far above a share of all noise a mixture is, where one layer's noise may undo another's: no sum of layers."""
    layers = np.random.default_rng(seed).normal(size=(len(MS), 6)) * np.sqrt(POWER)[:, None]

    def noise(mixture):
        return float(np.square(np.array([name not in mixture for name in MS]) @ layers).sum())

    return lambda mixture: noise(mixture) - share * noise(frozenset())


def first(drop):
    """What `repair` tries: the first layers, one too few and enough."""
    enough = next(n for n in range(1, len(MS) + 1) if drop(list(MS)[:n]) <= 0)
    return {frozenset(list(MS)[:n]): drop(list(MS)[:n]) for n in {1, enough - 1, enough} if n}


@pytest.mark.parametrize(("seed", "share"), [(1, 0.7), (2, 0.1), (3, 0.1), (5, 0.3)])
def test_a_mixture_that_takes_less_is_found_and_none_that_takes_more_is_tried(seed, share):
    drop, asked = drops(seed, share), []
    known = first(drop)
    found = mixing.cheapest(MS, known, 12, 0, lambda mixture: asked.append(mixture) or drop(mixture))
    before, best = (min(cost(one) for one in some if drop(one) <= 0) for some in (known, EVERY))
    assert drop(found) <= 0 and cost(found) - best <= (before - best) / 2
    assert 0 < len(asked) == len(set(asked)) <= 12 and all(asked) and not set(asked) & set(known)
    assert all(cost(one) < before for one in asked)


def test_the_same_is_asked_for_again():
    def asked(drop):
        found = []
        mixing.cheapest(MS, first(drops(3, 0.1)), 4, 0, lambda mixture: found.append(mixture) or drop(mixture))
        return found

    assert asked(drops(3, 0.1)) == asked(drops(3, 0.1)) and len(asked(drops(3, 0.1))) == 4


def test_where_no_more_may_be_tried_or_nothing_runs_the_best_so_far_is_taken():
    known = first(drops(3, 0.1))
    best = min((one for one, value in known.items() if value <= 0), key=cost)
    assert mixing.cheapest(MS, known, 12, 0, lambda mixture: None) == best
    assert mixing.cheapest(MS, known, 3, 0, lambda mixture: np.inf) == best
    assert mixing.cheapest(MS, known, 0, 0, lambda mixture: pytest.fail("tried")) == best


@pytest.mark.parametrize("ms", [{"free": 0.0, "dear": 1.0}, {"free": 1.0}])
def test_where_one_layer_that_costs_least_is_enough_nothing_is_tried(ms):
    known = {frozenset(["free"]): -0.1}  # with none it is the candidate itself, which loses too much
    assert mixing.cheapest(ms, known, 12, 0, lambda mixture: pytest.fail("tried")) == frozenset(["free"])


@pytest.mark.parametrize(
    ("search", "number"),
    [({}, 0), ({"trials": 2}, 0), ({"trials": 5}, 5), ({"time": "30m"}, 12), ({"time": 60, "trials": 0}, 0),
     ({"trials": 5, "quick": True}, 0)],
)  # fmt: skip
def test_they_are_searched_where_a_recipe_gives_trials_or_a_time(search, number):
    table = {"model": {"path": "m.onnx"}, "data": {"path": "d.npz"}, "targets": {"onnxruntime": {}}, "search": search}
    assert mixing.most(from_table(table, Path())) == number
