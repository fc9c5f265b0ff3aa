"""Raw data on its way to a model's inputs: which preprocessing reads which columns, and what cannot be read.

It is what a device does too (`runtime.pre`). A sample that cannot be read is left out, counted and named.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from optimize import padding
from optimize.data import Batch, Splits
from optimize.models import Axes
from runtime import host, pre
from runtime.errors import InputError
from runtime.pre import Preprocessing, PreSpec
from runtime.tensors import Array, TensorSpec

NAMED = 5  # damaged samples, in a message
TIMED = 64  # samples


@dataclass
class Losses:
    """What could not be read.

    Attributes:
        reasons: what was said of them, each once, over all passes.
        lost: how many they were since it was set to 0.
        read: how often a sample was read.
    """

    reasons: dict[str, None] = field(default_factory=dict)
    lost: int = 0
    read: int = 0

    def check(self, samples: int, limit: float) -> list[str]:
        """What a reader of the report should know; raises InputError where more than `limit`, a share, are lost."""
        if not self.lost:
            return []
        lost, named = self.lost, "; ".join(one.rstrip(".") for one in list(self.reasons)[:NAMED])
        said = f"{lost} of {samples + lost} samples cannot be read{', the first' if lost > NAMED else ''}: {named}"
        if lost > limit * (samples + lost):
            raise InputError(
                f"{said}. At most {limit:.0%} may be left out: mend them, or allow more ([data] damaged = 0.2)."
            )
        return [f"{said}. They were left out"]


@dataclass(frozen=True)
class Read:
    """Data whose batches are a model's inputs.

    Attributes:
        specs: the preprocessing that made them, with the columns that it reads; none where they lay there.
        usual: the metric that such labels are for, and the words for them, where they were read as none but that.
        axes: the limits of axes along which samples are padded.
        notes: what a reader of the report should know.
    """

    splits: Splits
    specs: tuple[PreSpec, ...]
    losses: Losses
    usual: tuple[str, str] | None = None
    axes: Axes = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def pace(self, inputs: Sequence[TensorSpec]) -> list[str]:
        """What a sample's preprocessing takes on this machine, for the report; nothing where there is none."""
        if not self.specs:
            return []
        made = Preprocessing(self.specs, inputs)
        stored, _ = replace(self.splits.validate, convert=lambda batch: batch).take(TIMED)
        taken = []
        for raw in pre.rows({name: list(stored[name]) for name in made.columns}):
            begun = time.perf_counter_ns()
            with contextlib.suppress(InputError):  # one that is left out
                made.batch([made.sample(raw)])
                taken.append(time.perf_counter_ns() - begun)
        if not taken:
            return []
        kinds = " and ".join(spec.kind for spec in self.specs)
        return [
            f"a call with raw samples ({kinds}) takes {np.median(taken) / 1e6:.2g} ms of preprocessing on top here "
            f"(median of {len(taken)}); every engine's time and ratio is without it"
        ]


def merged(asked: Sequence[PreSpec], known: Sequence[PreSpec]) -> tuple[PreSpec, ...]:
    """What a recipe asks for, over what the model's source knows of the same kind."""
    own = {spec.kind: spec for spec in known}
    found = [
        replace(
            spec, columns=spec.columns or one.columns, settings={**one.settings, **spec.settings},
            files={**one.files, **spec.files},
        ) if (one := own.pop(spec.kind, None)) else spec
        for spec in asked
    ]  # fmt: skip
    return (*found, *own.values())


def read(splits: Splits, asked: Sequence[PreSpec], inputs: Sequence[TensorSpec]) -> Read:
    """Put preprocessing between raw data and a model: what is asked for, else what the data's kind needs.

    Args:
        splits: as they were loaded.
        asked: by the recipe or the model's source; with columns where it says them.
        inputs: the model's, where they are known.

    Raises:
        InputError: a column that is not there, or text or pictures of which nothing says what becomes of them.
    """
    losses = Losses()
    stored, known = splits.calibrate.take(1)
    specs = tuple(_placed(asked, stored, inputs) if asked else _told(stored, inputs))
    if not specs:
        return Read(splits, (), losses)
    fits = [padding.fitted(spec, splits.calibrate, inputs) for spec in specs]
    specs = tuple(spec for spec, _, _ in fits)
    axes = {name: limits for _, sizes, _ in fits for name, limits in sizes.items()}
    made = Preprocessing(specs, inputs)

    def convert(batch: Batch) -> Batch:
        feeds, labels = batch
        raw = list(pre.rows({name: list(feeds[name]) for name in made.columns}))
        told = labels is not None and labels.dtype.kind in "UO"
        kept, samples, answers = [], [], []
        with ThreadPoolExecutor(host.cores()) as pool:  # Pillow and tokenizers compute beside Python
            for row, one in enumerate(pool.map(partial(_sample, made, told), raw, raw if labels is None else labels)):
                if isinstance(one, InputError):
                    losses.reasons[str(one)] = None
                    losses.lost += 1
                    continue
                sample, answer = one
                samples.append(sample)
                answers += [answer] if told else []
                kept.append(row)
        losses.read += len(kept)
        if not kept:
            return {}, None
        others = {name: value[kept] for name, value in feeds.items() if name not in made.columns}
        if answers:
            return {**made.batch(samples), **others}, _stacked(answers)
        return {**made.batch(samples), **others}, None if labels is None else labels[kept]

    usual = None
    if known is not None and known.dtype == object and isinstance(known[0], np.ndarray):
        answers = known[0].shape[1] == 2
        usual = ("exact_match", "for answers in a context") if answers else ("average_precision", "for boxes")
    said = tuple(note for _, _, notes in fits for note in notes)
    if not asked:
        said = (*map(_guess, specs), *said)
    return Read(splits.converted(convert), specs, losses, usual, axes, said)


def _sample(made: Preprocessing, told: bool, raw: Mapping[str, Any], label: Any) -> tuple[list[Any], Any] | InputError:
    """A sample and its label, where that is `told` by raw ones, as they say; or why one of them cannot be read."""
    try:
        return made.sample(raw), made.label(pre.cell(label), raw) if told else label
    except InputError as error:
        return error


def _told(stored: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> list[PreSpec]:
    """What columns that are no inputs need: a column is of the kind that it is named after, else it is text."""
    taken = {spec.name for spec in inputs if spec.dtype == "str"}
    raw = [name for name, value in stored.items() if value.dtype.kind in "UO" and name not in taken]
    if not raw or (taken and len(stored) == len(inputs)):
        return []
    kinds: dict[str, list[str]] = {}
    for name in raw:
        kinds.setdefault(name if name in pre.names() else "text", []).append(name)
    return [replace(pre.suited(kind, inputs), columns=tuple(columns)) for kind, columns in kinds.items()]


def _guess(spec: PreSpec) -> str:
    """What was told, for whoever knows better."""
    settings = ", ".join(f"{key} = {value!r}" for key, value in spec.settings.items())
    return (
        f"no [[pre]] says what becomes of {' and '.join(spec.columns)}: taken as {spec.kind} with {settings}, all else "
        "by default; where the model was trained on other numbers, say so there"
    )


def _placed(asked: Sequence[PreSpec], stored: Mapping[str, Array], inputs: Sequence[TensorSpec]) -> list[PreSpec]:
    """Each kind with its columns: those it names, else the one of its name, else the ones that no input takes."""
    known = {spec.name: spec for spec in inputs}
    free = [
        name for name, value in stored.items()
        if name not in known or value.dtype.name not in (known[name].dtype, "str")
    ]  # fmt: skip
    for spec in asked:
        if lacking := [name for name in spec.columns if name not in stored]:
            raise InputError(f"the data has no column '{lacking[0]}', which [[pre]] names; it has {', '.join(stored)}.")
        free = [name for name in free if name not in spec.columns]
    found = []
    for spec in asked:
        columns = spec.columns
        if not columns:
            own = [name for name in free if name == spec.kind] or free
            most = spec.open(inputs).most
            columns = tuple(own if len(asked) == 1 else own[:most])
            if not 1 <= len(columns) <= most:
                raise InputError(
                    f"the preprocessing '{spec.kind}' reads {' or '.join(map(str, range(1, most + 1)))} columns, and "
                    f"the data has {', '.join(stored)}: name them, [[pre]] columns = [...]."
                )
            free = [name for name in free if name not in columns]
        found.append(replace(spec, columns=columns))
    return found


def _stacked(answers: Sequence[Array]) -> Array:
    if answers[0].ndim == 2 and answers[0].shape[1] == 2:  # spans: of no answer, -1
        most = max(map(len, answers))
        return np.stack([np.pad(one, ((0, most - len(one)), (0, 0)), constant_values=-1) for one in answers])
    if len({one.shape for one in answers}) > 1:
        raise InputError("the masks have several sizes: give the preprocessing 'image' a size.")
    return np.stack(answers)
