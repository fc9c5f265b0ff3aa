"""Which layers to leave in float, where there is time to search: the mixture that takes least of those that hold.

The layers that regain most for their time, as many as it takes, are a good mixture and not always the cheapest, since
layers are counted whole. That is a knapsack: by the sum of what the layers regain and of what they cost, every mixture
of a dozen layers is weighed, and of those that no other beats the ones between too little and enough are tried, by
halving. What a mixture truly loses is told by validate.

Noise does not add up as the sums say, so that the mixtures between are few: on DnCNN for OpenVINO (three limits of the
noise, by the layers' measured milliseconds) this took 1 % off what the first layers cost, and Optuna's Gaussian
process, given the same start and twelve tries, 35 %.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optimize.automatic import KEPT
from optimize.recipe import Recipe
from optimize.report import LayerRepair

UNASKED = 12  # tries at most, where the recipe gives a time and no number
WEIGHED = 16  # layers at most, whose mixtures are all weighed
SAME = 1e-9  # by which sums in another order differ

Mixture = frozenset[str]


@dataclass(frozen=True)
class _Weighed:
    """A mixture, the share of the noise that it regains and its milliseconds, by the sums."""

    mixture: Mixture
    gain: float
    ms: float


def most(recipe: Recipe) -> int:
    """How many mixtures may be tried beyond the best layers first; 0 where a recipe asks for no search."""
    search = recipe.search
    number = (UNASKED if search.time else 0) if search.trials is None else search.trials
    return 0 if search.quick or number <= len(KEPT) else number


def cheapest(
    layers: Sequence[LayerRepair], known: Mapping[Mixture, float], number: int,
    tried: Callable[[Mixture], float | None],
) -> Mixture:  # fmt: skip
    """The mixture that takes least of those that hold the limit.

    Args:
        layers: that may be in float, with what each regains and costs.
        known: mixtures that were tried, each with how far its drop is above the limit; one of them at least holds it.
        number: of tries.
        tried: makes and judges one, as in `known`; None ends the search.
    """
    best = min((_weighed(layers, one) for one, excess in known.items() if excess <= 0), key=lambda one: one.ms)
    little = max((_weighed(layers, one).gain for one, excess in known.items() if excess > 0), default=0.0)
    front = _front(layers) if len(layers) <= WEIGHED else []
    for _ in range(number):
        between = [one for one in front if one.ms < best.ms - SAME and one.gain > little + SAME]
        if not between:
            break
        middle = between[len(between) // 2]
        excess = tried(middle.mixture)
        if excess is None:
            break
        if excess <= 0:
            best = middle
        else:
            little = middle.gain
    return best.mixture


def _weighed(layers: Sequence[LayerRepair], mixture: Mixture) -> _Weighed:
    own = [one for one in layers if one.name in mixture]
    return _Weighed(mixture, sum(one.regained for one in own), sum(max(one.ms or 0.0, 0.0) for one in own))


def _front(layers: Sequence[LayerRepair]) -> list[_Weighed]:
    """Mixtures that regain more than every one that takes no longer, the shortest first."""
    chosen = (np.arange(2 ** len(layers))[:, None] >> np.arange(len(layers))) & 1
    gain = chosen @ np.array([one.regained for one in layers])
    ms = chosen @ np.array([max(one.ms or 0.0, 0.0) for one in layers])
    order = np.lexsort((-gain, ms))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], gain[order][:-1]]))
    return [
        _Weighed(frozenset(one.name for one, is_in in zip(layers, chosen[i], strict=True) if is_in), gain[i], ms[i])
        for i in order[gain[order] > before + SAME]
    ]
