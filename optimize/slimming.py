"""Find the widths at which a pruned model is just so much faster as it was asked to be, on a target's real engine."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, TypeAdapter

from optimize import latencies
from optimize.build import Built
from optimize.latencies import Latency, widths
from optimize.models import TorchModel
from optimize.rounds import AIM, BEYOND, LEAST, ROUNDS, Search, Try, scaled, taken
from optimize.stages import SEARCH
from optimize.steps.prune_channels import Step as PruneChannels
from optimize.steps.prune_channels import kept

if TYPE_CHECKING:
    from torch import Tensor, nn

OWN = "prune_channels "  # how the step's notes begin

Layers = dict[str, Latency]


class Timed(PruneChannels):
    """Channels removed by the time that they take: a goal of the search, which no recipe has.

    Attributes:
        roots: the layers that may lose channels; none: they are told first.
        layers: what each layer takes; where there are none, channels are counted.
        keep: the share of all that, that is to stay.
    """

    closest: ClassVar[bool] = True
    roots: tuple[str, ...] = ()
    layers: Layers = Field(default_factory=dict)
    keep: float = LEAST

    def _only(self) -> tuple[str, ...] | None:
        return self.roots or None

    def _kept(self) -> float:
        return self.keep

    def _amount(self, module: "nn.Module", roots: list[str], arguments: "list[Tensor]") -> float:
        return total(self.layers, module) if self.layers else super()._amount(module, roots, arguments)


def total(layers: Mapping[str, Latency], module: "nn.Module") -> float:
    """Milliseconds of all layers at a module's widths, each by itself."""
    return sum(layer.at(*widths(module.get_submodule(name))) for name, layer in layers.items())


@dataclass(frozen=True)
class Slimming(Search):
    """Of `prune_channels`: widths."""

    step: PruneChannels

    def _searched(self) -> dict[str, Any]:
        factor, _ = self.step.sought()
        given, engine, begun = self._given()
        if begun >= factor:
            return {"widths": {}, "notes": [f"{begun:.2f}x by what was removed before, so that no channel goes"]}
        least, notes = self._pruned(self._timed())
        left_alone = [note.removeprefix(OWN) for note in notes if note.startswith(f"{OWN}left ")]
        whole, layers = self._table(engine, given, least)
        everything, fewest = total(layers, given.module), kept(least, given)
        tries, scale = list[Try](), 1.0
        while len(tries) < ROUNDS and not (tries and self.deadline.over(SEARCH)):
            self.progress.say(f"round {len(tries) + 1} of pruning until {self.step.until}")
            goal = whole * (1 - begun / (AIM * factor)) / scale
            goal = _between(goal, tries, factor, everything - total(layers, least.module))
            timed = self._timed(roots=tuple(fewest), layers=layers, keep=max(1 - goal / everything, LEAST))
            small, _ = self._pruned(timed)
            small = small if small.history != given.history or tries else least
            asked, saved = kept(small, given), everything - total(layers, small.module)
            if any(one.given == asked for one in tries):
                break
            predicted = begun / max(1 - scale * saved / whole, LEAST)
            step = self.step.model_copy(update={"widths": asked})
            seen = self._factor(self._built(f"pruned, round {len(tries) + 1}", *self.before, step))
            tries.append(Try(asked, saved, predicted, seen))
            if factor <= seen.value <= BEYOND * factor or (asked == fewest and seen.value < factor):
                break
            scale = scaled(scale, tries, begun, whole)
        best, said = taken(tries, factor, fewest, f"each layer keeps a multiple of {self.step.multiple}")
        return {"widths": best, "notes": [*said, *left_alone]}

    def _timed(self, **settings: Any) -> Timed:
        return Timed.model_validate({**self.step.model_dump(), **settings})

    def _table(self, engine: Built, given: TorchModel, least: TorchModel) -> tuple[float, Layers]:
        """What the whole of the given model takes, and its layers, out of the cache where it was measured before."""

        def make(folder: Path) -> Mapping[str, Any]:
            folder.mkdir()
            whole, layers = latencies.measured(
                given, least.module, engine.contender, self.subject.feeds, self.step.multiple, self.log,
                self.progress.count,
            )  # fmt: skip
            return {"whole": whole, "layers": {name: asdict(one) for name, one in layers.items()}}

        self.progress.say(f"what the layers take on {self.plain.target.name}")
        place = self._address(self.step.model_copy(update={"until": None}), "latencies")
        facts = self._kept(place, f"latencies of layers on {self.plain.target.name}", make)
        return facts["whole"], TypeAdapter(Layers).validate_python(facts["layers"])


def _between(goal: float, tries: Sequence[Try], factor: float, most: float) -> float:
    """Milliseconds to save: more than what was too little for sure, less than what was enough for sure."""
    low = max((one.saved for one in tries if one.factor.high < factor), default=0.0)
    high = min((one.saved for one in tries if one.factor.low >= factor), default=math.inf)
    return goal if low < goal < high else (low + min(high, most)) / 2
