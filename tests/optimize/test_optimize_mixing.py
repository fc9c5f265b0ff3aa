"""Mixtures of layers in float and in int8: what is tried, by a known function."""

from itertools import combinations
from math import fsum
from pathlib import Path

import numpy as np
import pytest

from optimize import mixing
from optimize.recipe import from_table
from optimize.report import LayerRepair

LAYERS = [
    LayerRepair(name=f"l{i}", op="Conv", regained=gain, ms=ms)
    for i, (gain, ms) in enumerate([(0.5, 1.0), (0.3, 1.0), (0.28, 1.2), (0.2, 0.9), (0.1, 0.5), (0.05, 0.3)])
]
MS = {one.name: one.ms for one in LAYERS}
GAINS = {one.name: one.regained for one in LAYERS}


def excess(mixture, needed):
    """How far above the limit: of what each layer truly regains, which is told to nobody, so much is needed."""
    return 0.01 * (needed - fsum(GAINS[name] for name in mixture))  # a set has no order, and 0.9 is just enough


def prefixes(needed):
    """What halving has tried: the best layers first, one too few and enough."""
    names = [one.name for one in LAYERS]
    sizes = next(n for n in range(1, len(names) + 1) if excess(names[:n], needed) <= 0)
    return {frozenset(names[:n]): excess(names[:n], needed) for n in {1, sizes - 1, sizes} if n}


def cost(mixture):
    return sum(MS[name] for name in mixture)


@pytest.mark.parametrize("needed", [0.6, 0.75, 0.9, 1.05, 1.2, 1.4])
def test_a_mixture_that_takes_less_is_found_and_none_that_takes_more_is_tried(needed):
    known, asked = prefixes(needed), []

    def tried(mixture):
        asked.append(mixture)
        return excess(mixture, needed)

    found = mixing.cheapest(LAYERS, known, 12, tried)
    first = min((one for one, value in known.items() if value <= 0), key=cost)
    assert excess(found, needed) <= 0 and len(asked) <= 4
    assert all(cost(one) < cost(first) for one in asked) and len(set(asked)) == len(asked)
    every = [frozenset(one) for n in range(1, 7) for one in combinations(MS, n) if excess(one, needed) <= 0]
    assert cost(found) == pytest.approx(min(map(cost, every)))


def test_where_no_more_may_be_tried_the_best_so_far_is_taken():
    known = prefixes(0.9)
    first = min((one for one, value in known.items() if value <= 0), key=cost)
    assert mixing.cheapest(LAYERS, known, 12, lambda mixture: None) == first
    assert mixing.cheapest(LAYERS, known, 12, lambda mixture: np.inf) == first


def test_more_layers_than_can_be_weighed_are_left_as_they_are():
    many = [LayerRepair(name=f"m{i}", op="Conv", regained=0.1, ms=1.0) for i in range(mixing.WEIGHED + 1)]
    first = frozenset(one.name for one in many[:3])
    assert mixing.cheapest(many, {first: -0.1}, 12, lambda mixture: pytest.fail("tried")) == first


@pytest.mark.parametrize(
    ("search", "number"),
    [({}, 0), ({"trials": 2}, 0), ({"trials": 5}, 5), ({"time": "30m"}, 12), ({"time": 60, "trials": 0}, 0),
     ({"trials": 5, "quick": True}, 0)],
)  # fmt: skip
def test_they_are_searched_where_a_recipe_gives_trials_or_a_time(search, number):
    table = {"model": {"path": "m.onnx"}, "data": {"path": "d.npz"}, "targets": {"onnxruntime": {}}, "search": search}
    assert mixing.most(from_table(table, Path())) == number
