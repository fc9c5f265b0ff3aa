"""What to try next, where a try takes minutes and so there are few: Optuna's Gaussian process asks for it.

A cost is to be least where drops hold their limits. What is asked for follows from what was tried and the seed alone.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runtime.engines import library

Space = Mapping[str, range | Sequence[str]]  # numbers by their range, words by all of them


@dataclass(frozen=True)
class Tried:
    """One of the ways, and what it came to.

    Attributes:
        params: what it is, by the names of the space.
        cost: to be least.
        excess: for all that is limited, by name, how far it is above that: finite, 0 or less holds it.
    """

    params: Mapping[str, Any]
    cost: float
    excess: Mapping[str, float]


def asks(space: Space, tried: Collection[Tried], seed: int) -> Iterator[dict[str, Any]]:
    """What to try next, without end: each as if those before were still being tried.

    Args:
        space: of each parameter.
        tried: one at least.
        seed: of what is asked for.

    Raises:
        EngineMissing: Optuna is not installed.

    Gardner and others, "Bayesian Optimization with Inequality Constraints", 2014.
    """
    optuna = library("optuna", "optimize")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    kinds = optuna.distributions
    distributions = {
        name: kinds.IntDistribution(one[0], one[-1], step=one.step)
        if isinstance(one, range)
        else kinds.CategoricalDistribution(one)
        for name, one in space.items()
    }
    sampler = optuna.samplers.GPSampler(seed=seed, n_startup_trials=0, warn_independent_sampling=False)
    study = optuna.create_study(sampler=sampler)
    for one in tried:
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(one.params), distributions=distributions, value=one.cost, constraints=dict(one.excess)
            )
        )
    while True:
        with _one_thread():
            params = study.ask(distributions).params
        yield dict(params)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch's: matrices have a row a try, and several threads spin on them, ten times as long beside a busy process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
