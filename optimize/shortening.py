"""Find the blocks without which a model is just so much faster as it was asked to be, on a target's real engine.

The block whose absence does least for the milliseconds that it takes goes first, and the others are judged anew; how
many go is what the rounds find.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from pydantic import Field

from optimize import latencies
from optimize.build import Built
from optimize.models import Removal, TorchModel
from optimize.rounds import AIM, BEYOND, LEAST, ROUNDS, Search, Try, scaled, taken
from optimize.stages import SEARCH
from optimize.steps.prune_blocks import Step as PruneBlocks


class Timed(PruneBlocks):
    """All blocks removed, by the time that they take: a goal of the search, which no recipe has.

    Attributes:
        ms: of each block; where there are none, they go as they come.
    """

    ms: dict[str, float] = Field(default_factory=dict)

    def _named(self, removable: list[str]) -> list[str] | None:
        return None if self.ms else list(removable)

    def _number(self, removable: int) -> int:
        return removable

    def _cost(self, name: str) -> float:
        return max(self.ms[name], LEAST)


@dataclass(frozen=True)
class Shortening(Search):
    """Of `prune_blocks`: names of blocks that go."""

    step: PruneBlocks

    def _searched(self) -> dict[str, Any]:
        factor, _ = self.step.sought()
        given, engine, begun = self._given()
        if begun >= factor:
            return {"blocks": [], "notes": [f"{begun:.2f}x by what was removed before, so that no block goes"]}
        whole, ms = self._table(engine, given, _gone(self._pruned(self._timed())[0], given))
        order = _gone(self._pruned(self._timed(ms=ms))[0], given)
        saved = list(accumulate(ms[name] for name in order))
        tries, scale, few, enough = list[Try](), 1.0, 0, len(order) + 1
        while len(tries) < ROUNDS and enough - few > 1 and not (tries and self.deadline.over(SEARCH)):
            self.progress.say(f"round {len(tries) + 1} of removing blocks until {self.step.until}")
            goal = whole * (1 - begun / (AIM * factor)) / scale
            count = sum(one < goal for one in saved) + 1
            count = min(max(count, few + 1), enough - 1)
            predicted = begun / max(1 - scale * saved[count - 1] / whole, LEAST)
            step = self.step.model_copy(update={"blocks": tuple(order[:count])})
            seen = self._factor(self._built(f"without {count} blocks", *self.before, step))
            tries.append(Try(order[:count], saved[count - 1], predicted, seen))
            if factor <= seen.value <= BEYOND * factor:
                break
            few, enough = (count, enough) if seen.value < factor else (few, count)
            scale = scaled(scale, tries, begun, whole)
        best, said = taken(tries, factor, order, "a block goes whole, or stays")
        return {"blocks": best, "notes": said}

    def _timed(self, **settings: Any) -> Timed:
        return Timed.model_validate({**self.step.model_dump(), **settings})

    def _table(self, engine: Built, given: TorchModel, blocks: list[str]) -> tuple[float, dict[str, float]]:
        """What the whole of the given model takes, and each block, out of the cache where it was measured before."""

        def make(folder: Path) -> Mapping[str, Any]:
            folder.mkdir()
            whole, ms = latencies.of_blocks(
                given, blocks, engine.contender, self.subject.feeds, self.log, self.progress.count
            )
            return {"whole": whole, "blocks": ms}

        self.progress.say(f"what the blocks take on {self.plain.target.name}")
        place = self._address(self.step.model_copy(update={"until": None}), "latencies of blocks")
        facts = self._kept(place, f"latencies of blocks on {self.plain.target.name}", make)
        return facts["whole"], dict(facts["blocks"])


def _gone(small: TorchModel, given: TorchModel) -> list[str]:
    """The blocks that a model lacks, in the order in which they went."""
    later = small.history[len(given.history) :]
    return [one.name for one in later if isinstance(one, Removal)]
