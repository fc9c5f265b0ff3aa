"""Which layers to leave in float, where there is time to search: the mixture that takes least of those that hold.

The layers that regain most for their time, as many as it takes, are a good mixture and not always the cheapest: layers
are counted whole, and noise does not add up as that of each alone would say. So others that would take less are asked
for, by the milliseconds of their layers and by how far what was tried lies above the limit.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from math import isfinite

from optimize.asking import Tried, asks
from optimize.automatic import KEPT
from optimize.recipe import Recipe

UNASKED = 12  # tries at most, where the recipe gives a time and no number
REFUSED = 10  # asks in a row for what would take no less, after which the best without one of its layers is tried

Mixture = frozenset[str]


def most(recipe: Recipe) -> int:
    """How many mixtures may be tried beyond the best layers first; 0 where a recipe asks for no search."""
    search = recipe.search
    number = (UNASKED if search.time else 0) if search.trials is None else search.trials
    return 0 if search.quick or number <= len(KEPT) else number


def cheapest(
    ms: Mapping[str, float], known: Mapping[Mixture, float], number: int, seed: int,
    tried: Callable[[Mixture], float | None],
) -> Mixture:  # fmt: skip
    """The mixture that takes least of those that hold the limit.

    Args:
        ms: what each layer that may be in float costs.
        known: mixtures that were tried, each with how far its drop is above the limit; one of them at least holds it.
        number: of tries.
        seed: of what is asked for.
        tried: makes and judges one, as in `known`; None ends the search.
    """
    found = dict(known)

    def cost(mixture: Mixture) -> float:
        return sum(ms[name] for name in sorted(mixture))  # one order, so that sums of the same are the same

    while True:
        best = min((one for one, excess in found.items() if excess <= 0), key=lambda one: (cost(one), len(one)))
        if len(found) == len(known) + number:
            return best
        asked = islice(_asked(ms, cost, found, seed), REFUSED if cost(best) else 0)
        fewer = (best - {name} for name in sorted(best, key=lambda name: -ms[name]))
        # with no layer in float it is the candidate that loses too much
        promising = (one for one in chain(asked, fewer) if one and one not in found and cost(one) < cost(best))
        mixture = next(promising, None)
        excess = None if mixture is None else tried(mixture)
        if mixture is None or excess is None:
            return best
        found[mixture] = excess


def _asked(
    ms: Mapping[str, float], cost: Callable[[Mixture], float], found: Mapping[Mixture, float], seed: int
) -> Iterator[Mixture]:
    worst = max((abs(excess) for excess in found.values() if isfinite(excess)), default=1.0)
    tried = [
        Tried({name: int(name in one) for name in ms}, cost(one), {"drop": min(excess, worst)})
        for one, excess in found.items()
    ]
    return (frozenset(name for name in ms if one[name]) for one in asks(dict.fromkeys(ms, range(2)), tried, seed))
