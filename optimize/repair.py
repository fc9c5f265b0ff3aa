"""Find the layers of a rounded candidate that are worth more in float: accuracy regained for each millisecond lost.

What a layer regains is the noise in the outputs that goes away with it alone in float, on calibration data; what it
costs is measured on the target's engine, interleaved with the candidate as it is. Both are kept of every layer tried.
"""

import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from optimize.build import Builder, Built, Lost
from optimize.data import Split
from optimize.mixing import Mixture, cheapest
from optimize.models import OnnxModel, write_onnx
from optimize.plan import Candidate, role_of
from optimize.progress import Progress
from optimize.report import LayerRepair, Row
from optimize.select import lost
from optimize.steps import Settings, behind
from optimize.steps._float import quantized, to_float
from optimize.subject import Subject
from optimize.verify import answered, judge
from runtime.errors import StepError
from runtime.measure import Measurement, measure
from runtime.tensors import Array

log = logging.getLogger(__name__)

REPAIRED = "-repaired"  # behind the name of what was repaired
ROUNDS = 3  # of the measurement of what each layer costs, twice as many where mixtures are searched by their sums
SLOWER = 1.1  # times as fast another engine must be at least, for a candidate to be not worth repairing
WAYS = 2  # of rounding that are repaired for a target; where two do not hold, a third one, which loses more, will not


@dataclass(frozen=True)
class Repaired:
    """The mixture of layers in float and in int8 that holds the limit for the least time, or that with most in float.

    Attributes:
        row: its row, judged on validate.
        layers: every layer looked at, best first.
        said: what came of a search of other mixtures; empty where there was none.
    """

    candidate: Candidate
    built: Built
    row: Row
    layers: tuple[LayerRepair, ...]
    said: str = ""


def in_turn(
    candidates: Sequence[Candidate], rows: Mapping[str, Row], seen: Measurement, max_drop: float
) -> list[Candidate]:
    """Candidates in the order in which they are repaired: those that hold the limit, then the one that loses least.

    Of one rounding with several number formats for the rest, a format in which the whole model is surely slower goes
    last, since layers return to it: bf16 where the processor has no matrix unit for it.

    Args:
        candidates: of all targets, the plain and the default ones among them.
        rows: judged on validate.
        seen: with the latencies of all.
        max_drop: the limit, in the metric's unit.
    """

    def slower(one: Candidate) -> bool:
        plain, vendor = (role_of(candidates, one.target.name, role) for role in ("plain", "vendor"))
        as_it_is, beside = (plain, vendor) if one.options == plain.options else (vendor, plain)
        return bool(outrun(seen, as_it_is.name, [beside.name]))

    def key(one: Candidate) -> tuple[bool, float, bool, float]:
        own = lost(rows[one.name])
        alike = [two for two in mendable if two.target == one.target and two.steps == one.steps]
        return own > max_drop, min(lost(rows[two.name]) for two in alike), slower(one), own

    mendable = [one for one in candidates if one.repair]
    return sorted(mendable, key=key)


def passed_over(candidate: Candidate, better: str, searched: Sequence[Candidate]) -> str:
    """Why no layers of a candidate are searched; empty where they are to be.

    Args:
        candidate: that loses too much.
        better: a rounded candidate of the same target that holds the limit; empty where none does yet.
        searched: candidates of the same target that were repaired, and still lose too much.
    """
    if better:
        return f"{better} holds the limit"
    if candidate.why_not:
        return "what a layer costs cannot be measured here"
    if alike := [one.name for one in searched if one.steps == candidate.steps]:
        return f"it is rounded as {alike[0]} is, and that was to no avail"
    if len(searched) == WAYS:
        return f"it loses more than {' and '.join(one.name for one in searched)}, and that was to no avail"
    return ""


def outrun(seen: Measurement, name: str, others: Sequence[str]) -> str:
    """Which of the others is so much faster, as it is, that no repair is worth its time; empty where none is for sure.

    Args:
        seen: with the latencies of all.
        name: of the candidate that would be repaired.
        others: of the same target, that hold the limit.
    """
    for other in others if name in seen.traces else ():
        if other in seen.traces and (times := seen.ratio(other, name)).low >= SLOWER:
            return f"{other} is {times.value:.2f} times [{times.low:.2f}, {times.high:.2f}] as fast"
    return ""


def repaired(
    subject: Subject, builder: Builder, candidate: Candidate, built: Built, judged: Callable[[Candidate, Built], Row],
    max_drop: float, log_file: Path, progress: Progress, mixtures: int = 0, over: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> Repaired | None:  # fmt: skip
    """Return layers to float, the one that regains most for its time first, until the limit is held.

    Args:
        subject: with the calibration data and the inputs that are timed.
        builder: makes the tries.
        candidate: that loses too much, its step `repair` left out.
        built: it.
        judged: a try's row, judged on validate.
        max_drop: the limit, in the metric's unit.
        log_file: where vendors' chatter goes.
        progress: told what is being done.
        mixtures: how many others may be tried, where some layers are enough, for one that takes less.
        over: no further one is to be tried.
        seed: of what other mixtures are asked for.

    Returns:
        None where no layer alone regains anything, or nothing with layers in float runs.

    Raises:
        StepError: the model does not run with layers in float.
    """
    assert candidate.repair is not None  # its callers looked
    before = builder.unrounded(candidate)
    if before is None:  # nothing in it is rounded
        return None
    progress.say(f"what each layer of {candidate.name} would regain")
    with tempfile.TemporaryDirectory() as folder:
        gains = regained(before, built.body, subject.calls.calibrate, Path(folder), progress.count)
    promising = sorted((one for one in gains if one.regained > 0), key=lambda one: -one.regained)[
        : candidate.repair.most
    ]
    if not promising:
        return None
    names, rounds = [one.name for one in promising], 2 * ROUNDS if mixtures else ROUNDS
    costs = _costs(subject, builder, candidate, built, names, rounds, log_file, progress)
    layers = tuple(
        sorted(
            (one.model_copy(update={"ms": costs.lost.get(one.name)}) for one in promising if one.name in costs.lost),
            key=lambda one: -one.regained / max(one.ms or 0.0, costs.floor),
        )
    )
    for one in layers:
        log.info("%s: %s in float regains %.1f %% of the noise and costs %.4f ms", candidate.name, one.name,
                 100 * one.regained, one.ms)  # fmt: skip
    found: dict[Mixture, Repaired] = {}
    excess: dict[Mixture, float] = {}

    def tried(mixture: Mixture) -> float | None:
        """How far the drop is above the limit with these layers in float; infinite where that does not run."""
        if over():
            return None
        names = tuple(one.name for one in layers if one.name in mixture)
        progress.say(f"{candidate.name} with {len(names)} of {len(layers)} layers in float")
        again = with_layers(candidate, names, f"{candidate.name}{REPAIRED}")
        made = builder.build(again)
        if isinstance(made, Lost):
            log.info("%s with %s in float: %s", candidate.name, ", ".join(names), made.reason)
            return math.inf
        row = judged(again, made)
        marked = tuple(one.model_copy(update={"returned": one.name in mixture}) for one in layers)
        found[mixture] = Repaired(again, made, row.model_copy(update={"repair": list(marked)}), marked)
        return lost(row) - max_drop

    size, few, enough = 1, 0, 0  # layers of the next try, of the largest that does not hold, of the smallest that does
    while size > few:
        first = frozenset(one.name for one in layers[:size])
        value = tried(first)
        if value is None:
            break
        excess[first] = value
        few, enough = (few, size) if value <= 0 else (size, enough)
        size = (few + enough) // 2 if enough else min(2 * size, len(layers))
    fewest = frozenset(one.name for one in layers[:enough])
    if enough and mixtures:
        ms = {name: max(ms, 0.0) for name, ms in costs.lost.items()}
        tries, taken, said = len(found), fewest, "none holds the limit for less time"
        other = cheapest(ms, excess, mixtures, seed, tried)
        if other != fewest:
            times = _times(subject, found[fewest], found[other], log_file, progress)
            taken = other if times > 1 else fewest
            how = f"is {times:.2f} times as fast as the first {enough} layers" if times else "failed when it was timed"
            said = f"the cheapest {how}"
        said = f"{candidate.name}: other mixtures of layers in float that were tried: {len(found) - tries}; {said}"
        return replace(found[taken], said=said)
    if enough:
        return found[fewest]
    return max(found.values(), key=lambda one: sum(layer.returned for layer in one.layers), default=None)


def regained(
    before: OnnxModel, after: OnnxModel, split: Split, folder: Path, progress: Callable[[int, int, str], None]
) -> list[LayerRepair]:
    """For each layer in int8 the share of the noise in the outputs that is gone when it alone computes in float.

    Args:
        before: in full precision.
        after: rounded.
        split: of calibration data; its first samples are used.
        folder: for what is temporary.
        progress: told how many of how many layers.
    """
    import onnx

    exact, rounded = onnx.load(before.path), onnx.load(after.path)
    layers = quantized(rounded)
    feeds, wanted = answered(before, split)
    whole = _noise(judge(after).run(feeds), wanted)
    found = []
    for done, layer in enumerate(layers):
        progress(done, len(layers), "noise without each layer's")
        proto = onnx.ModelProto()
        proto.CopyFrom(rounded)
        to_float(proto, {layer.name}, exact)
        alone = _noise(judge(write_onnx(proto, folder / f"{done}.onnx")).run(feeds), wanted)
        found.append(LayerRepair(name=layer.name, op=layer.op_type, regained=1 - alone / whole if whole else 0.0))
    return found


@dataclass(frozen=True)
class _Costs:
    """Milliseconds a call that each layer costs in float, and what can be told apart at all."""

    lost: Mapping[str, float]
    floor: float


def _costs(
    subject: Subject, builder: Builder, candidate: Candidate, built: Built, names: Sequence[str], rounds: int,
    log_file: Path, progress: Progress,
) -> _Costs:  # fmt: skip
    contenders = {}
    for name in names:
        made = builder.build(with_layers(candidate, (name,), f"{candidate.name} with {name} in float"))
        if isinstance(made, Built):
            contenders[name] = made.contender
    found = measure(
        [built.contender, *contenders.values()], subject.feeds, rounds=rounds, log=log_file, progress=progress.count
    )
    p50 = float(np.median(found.traces[built.contender.name].samples)) / 1e6
    lost = {
        name: p50 * (1 / found.ratio(contender.name).value - 1)
        for name, contender in contenders.items()
        if contender.name in found.traces
    }
    return _Costs(lost, found.margin * p50)


def _times(subject: Subject, one: Repaired, other: Repaired, log_file: Path, progress: Progress) -> float:
    """How many times as fast the other is, by the engine: layers side by side do not cost the sum; 0 where it fails."""
    named = replace(other.built.contender, name=f"{one.candidate.name}, another mixture")
    seen = measure(
        [one.built.contender, named], subject.feeds, rounds=ROUNDS, twin=False, log=log_file, progress=progress.count
    )
    return seen.ratio(named.name).value if named.name in seen.traces else 0.0


def with_layers(candidate: Candidate, layers: tuple[str, ...], name: str) -> Candidate:
    """The candidate with a repair of these layers behind its last step that rounds."""
    assert candidate.repair is not None  # its callers looked
    step: Settings = candidate.repair.model_copy(update={"layers": layers})
    return replace(candidate, name=name, steps=behind(candidate.steps, step), repair=None)


def _noise(got: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    """Power of the noise over that of the signal, summed over the outputs, each counted alike."""
    total = 0.0
    for name, value in wanted.items():
        if value.dtype.kind == "f":
            signal = float(np.square(value, dtype=np.float64).sum())
            total += float(np.square(got[name] - value, dtype=np.float64).sum()) / max(signal, 1e-30)
    if not np.isfinite(total):
        raise StepError("an output has NaN or infinity")
    return total
