"""What the unpruned model answers, for training to learn from: asked once a sample, unless the samples change."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from optimize.data import HELD_BYTES
from runtime.tensors import Array

if TYPE_CHECKING:
    from torch import Tensor

    Answers = dict[str, Tensor]


class Teacher:
    """Remembers what it answered, since asking takes a fifth of a step, of a pruned model more.

    Not where all answers take more than 512 MiB, or one has not as many rows as it was asked for: a state, say.

    Args:
        ask: a batch's arguments, each (batch, ...) -> its answers by name, each (batch, ...).
        samples: how many there are to learn from.
    """

    def __init__(self, ask: "Callable[[list[Tensor]], Answers]", samples: int) -> None:
        self._ask = ask
        self._known: Answers = {}
        self._asked = np.zeros(samples, bool)
        self._forgets = False

    def __call__(self, arguments: "list[Tensor]", rows: Array | None) -> "Answers":
        """The answers to a batch of the samples of these numbers; `rows` is None where they are not as they were."""
        import torch

        if rows is None or self._forgets:
            return self._answers(arguments)
        at, new = torch.from_numpy(rows), ~self._asked[rows]
        if new.any():
            some = torch.from_numpy(new)
            answers = self._answers(arguments if new.all() else [value[some] for value in arguments])
            if not self._can_keep(answers, int(new.sum())):  # which the first batch tells
                self._forgets = True
                return answers
            for name, value in answers.items():
                if name not in self._known:
                    self._known[name] = value.new_empty((len(self._asked), *value.shape[1:]))
                self._known[name][at[some]] = value
            self._asked[rows] = True
        return {name: known[at] for name, known in self._known.items()}

    def _can_keep(self, answers: "Answers", count: int) -> bool:
        of_samples = all(value.shape[:1] == (count,) for value in answers.values())
        return of_samples and len(self._asked) * sum(value[0].nbytes for value in answers.values()) <= HELD_BYTES

    def _answers(self, arguments: "list[Tensor]") -> "Answers":
        import torch

        with torch.no_grad():
            return self._ask(arguments)
