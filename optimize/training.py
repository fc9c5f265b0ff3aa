"""The loop that trains: on accelerate, with distillation, masks, averaged weights, and the way back from NaN."""

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from optimize import checkpoint, processes
from optimize.checkpoint import Checkpoint, Progress, copied
from optimize.data import Split
from optimize.folder import warnings_to_log
from optimize.losses import Targets, loss, score, score_in_words
from optimize.sources.torch import named_outputs, tensors
from optimize.steps import name_of
from optimize.teacher import Teacher
from runtime import host
from runtime.errors import InputError
from runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from optimize.steps.recover import Step

log = logging.getLogger(__name__)

Augment = Callable[[dict[str, Array], np.random.Generator], Mapping[str, Array]]
ROLLBACKS = 3  # after so many it is not the learning rate
JUDGE_BATCH = 256
BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # instruction sets of processors
ONECYCLE_UP, ONECYCLE_START = 0.3, 0.04  # the shares of Smith's schedule (arXiv:1708.07120) as torch has them


@dataclass(frozen=True)
class Samples:
    """A split in memory, since each pass goes over it in another order."""

    feeds: dict[str, Array]
    labels: Array | None

    @classmethod
    def of(cls, split: Split, inputs: tuple[TensorSpec, ...]) -> "Samples":
        """All of a split."""
        whole = list(split.batches(sys.maxsize))  # at once: texts are padded to one length then
        if len(whole) > 1:
            raise InputError(f"the samples of '{split.name}' are of several lengths; to train, pad them to one.")
        feeds, labels = split.take(sys.maxsize) if not whole else whole[0]
        if labels is not None and labels.dtype.kind not in "biuf":  # texts, which no loss is of
            labels = None
        return cls({spec.name: feeds[spec.name] for spec in inputs}, labels)

    def __len__(self) -> int:
        return len(next(iter(self.feeds.values())))

    def at(self, rows: Array) -> tuple[dict[str, Array], Array | None]:
        """These rows, copied."""
        return {name: v[rows] for name, v in self.feeds.items()}, None if self.labels is None else self.labels[rows]


@dataclass(frozen=True)
class Task:
    """What is learnt from.

    Attributes:
        judge: what early stopping looks at; None where the last weights are the result.
        teacher: in eval mode; None where only labels count.
        masks: parameter name to what may be other than zero.
    """

    inputs: tuple[TensorSpec, ...]
    learn: Samples
    judge: Samples | None
    teacher: "nn.Module | None"
    augment: Augment | None
    masks: "Mapping[str, Tensor]"


def train(
    module: "nn.Module", settings: "Step", task: Task, folder: Path,
    progress: Callable[[int, int, str], None], notes: list[str],
) -> "nn.Module":  # fmt: skip
    """Train a module in place; returns it on the processor, with the best weights that validate saw.

    Raises:
        InputError: the labels or what `augment` returns do not fit.
        StepError: the very first steps give NaN.
    """
    import torch

    with torch.random.fork_rng(), warnings_to_log():
        return _Training(module, settings, task, folder, progress).run(notes)


class _Training:
    """One training. Processes do the same steps on their shares of each batch; the first one decides when to stop."""

    def __init__(self, module: Any, settings: "Step", task: Task, folder: Path, progress: Any) -> None:
        import torch
        from accelerate import Accelerator

        self.settings, self.task, self.folder, self.tell = settings, task, folder, progress
        self.name = name_of(settings)
        self.key = checkpoint.fingerprint(settings.model_dump_json(), module.state_dict())
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        self.world, self.rank = self.accelerator.num_processes, self.accelerator.process_index
        self.bf16 = settings.precision == "bf16" or (settings.precision == "auto" and _has_bf16(self.device.type))
        self.module = module.to(self.device)
        self.module.requires_grad_(True)
        self._lay_out()
        self.masks = {name: mask.to(self.device) for name, mask in task.masks.items()}
        self.teacher = task.teacher.to(self.device) if task.teacher else None
        self.taught = Teacher(partial(self._answer, self.teacher), len(task.learn)) if self.teacher else None
        decayed = [p for p in module.parameters() if p.ndim > 1]
        others = [p for p in module.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
        optimizer: torch.optim.Optimizer
        if settings.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
        else:
            optimizer = torch.optim.AdamW(groups, lr=settings.lr)
        self.wrapped, self.optimizer = self.accelerator.prepare(self.module, optimizer)
        self.average = copied(self.module) if settings.ema else {}
        # a batch of one sample has no variance, and each process needs as many samples as the others
        self.batch = max(self.world, min(settings.batch, len(task.learn)) // self.world * self.world)
        self.steps = max(1, len(task.learn) // self.batch)
        self.begun = time.monotonic()
        self.wanted: Targets | None = None  # of validate, once

    def _lay_out(self) -> None:
        """Channels last, where the module runs so: a quarter faster on a CPU, and much on tensor cores."""
        import torch

        self.layout = torch.channels_last
        self.module.to(memory_format=self.layout)
        try:
            with torch.no_grad():
                self.module(*self._arguments(self.task.learn.at(np.arange(min(2, len(self.task.learn))))[0]))
        except RuntimeError:  # a `view` of what is not contiguous now; any other error comes again in the first step
            self.layout = torch.contiguous_format
            self.module.to(memory_format=self.layout)

    def run(self, notes: list[str]) -> "nn.Module":
        import torch

        held = processes.shared(checkpoint.read(self.folder, self.key) if self.rank == 0 else None)
        if held:
            held.progress.notes.append(f"{self.name} went on from its checkpoint after pass {held.progress.epoch}")
            self._return_to(held)
        else:
            held = self._first()
        at = held.progress
        self.begun = time.monotonic() - at.seconds
        while at.epoch < self.settings.epochs and not self._over(at):
            if self._pass(at):
                held = self._judged(held)
            else:
                self._roll_back(held)
            at.seconds = time.monotonic() - self.begun
            if self.rank == 0:
                checkpoint.write(held, self.folder, self.key)
            self.accelerator.wait_for_everyone()
        notes += [*at.notes, self._summary(at)]
        # of the first process, since each has seen other samples in its batch norms
        self.module.load_state_dict(processes.shared(held.best or held.average or held.module))
        trained: nn.Module = self.module.to("cpu", memory_format=torch.contiguous_format)
        return trained.eval()

    def _over(self, at: Progress) -> bool:
        tired = self.settings.patience is not None and at.waited >= self.settings.patience
        return tired or at.rollbacks >= ROLLBACKS or self._share(at.epoch * self.steps) >= 1

    def _share(self, step: int) -> float:
        """How much of the training is done, by steps or by the clock; the first process's clock counts for all."""
        share = step / (self.settings.epochs * self.steps)
        if self.settings.minutes:
            clock = (time.monotonic() - self.begun) / (60 * self.settings.minutes)
            share = max(share, processes.shared(clock))
        return float(min(share, 1.0))

    def _pass(self, at: Progress) -> bool:
        """One pass over the data; False where a loss or a gradient was no number, and the weights are spoilt."""
        import torch

        torch.manual_seed(self._seed(at.epoch))
        random = np.random.default_rng([self.settings.seed, at.epoch, self.rank])
        order = np.random.default_rng([self.settings.seed, at.epoch]).permutation(len(self.task.learn))
        self.wrapped.train()
        for i in range(self.steps):
            share = self._share(at.epoch * self.steps + i)
            if share >= 1:
                break
            rows = order[i * self.batch : (i + 1) * self.batch][self.rank :: self.world]
            if not self._step(rows, random, self.settings.lr * at.rate * rate(self.settings, share), at, i):
                return False
            words = f"{self.name}, pass {at.epoch + 1}"
            if at.score:
                words += f", validate {score_in_words(at.score)}"
            self.tell(int(100 * share), 100, words)
        return all(bool(torch.isfinite(value).all()) for value in self.module.parameters())

    def _step(self, rows: Array, random: np.random.Generator, lr: float, at: Progress, i: int) -> bool:
        import torch

        feeds, labels = self.task.learn.at(rows)
        if self.task.augment:
            feeds = _augmented(self.task.augment, feeds, random)
        arguments = self._arguments(feeds)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        got = self._answer(self.wrapped, arguments)
        answers = self.taught(arguments, None if self.task.augment else rows) if self.taught else None
        value = loss(got, Targets(_on(self.device, labels), answers), self.settings)
        self.optimizer.zero_grad()
        self.accelerator.backward(value)
        norm = self.accelerator.clip_grad_norm_(self.module.parameters(), self.settings.clip or math.inf)
        bad = torch.tensor(float(not (torch.isfinite(value) and torch.isfinite(torch.as_tensor(norm)))))
        if self.world > 1:
            bad = self.accelerator.reduce(bad.to(self.device), "sum")
        if bad:
            return False
        self.optimizer.step()
        with torch.no_grad():
            for name, mask in self.masks.items():
                self.module.get_parameter(name).mul_(mask)
            if self.average:
                # young averages forget faster, or the random or damaged beginning would stay in them for long
                done = at.epoch * self.steps + i
                keep = min(self.settings.ema, (1 + done) / (10 + done))
                for name, new in self.module.state_dict().items():
                    old = self.average[name]
                    old.lerp_(new, 1 - keep) if old.is_floating_point() else old.copy_(new)
        return True

    def _arguments(self, feeds: dict[str, Array]) -> "list[Tensor]":
        values = [value.to(self.device) for value in tensors(feeds, self.task.inputs)]
        return [value.contiguous(memory_format=self.layout) if value.ndim == 4 else value for value in values]

    def _answer(self, module: "nn.Module", arguments: "list[Tensor]") -> "dict[str, Tensor]":
        """In the precision of the settings; losses are reckoned in fp32."""
        import torch

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            outputs = named_outputs(module(*arguments))
        return {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in outputs.items()}

    def _first(self) -> Checkpoint:
        """Before any training: what it is judged against, and gone back to."""
        at = Progress()
        if self.task.judge:
            at.first = at.score = self._score()
        best = copied(self.module) if at.score else {}
        return Checkpoint(at, copied(self.module), _own(self.optimizer.state_dict()), self._average(), best)

    def _judged(self, held: Checkpoint) -> Checkpoint:
        """After a good pass: its score, and everything that going back or going on needs."""
        at = held.progress
        at.epoch += 1
        best = held.best
        if self.task.judge:
            current = copied(self.module)
            if self.average:
                self.module.load_state_dict(self.average)
            found = processes.shared(self._score() if self.rank == 0 else None)
            if found > at.score:
                at.score, at.score_epoch, at.waited, best = found, at.epoch, 0, copied(self.module)
            else:
                at.waited += 1
            self.module.load_state_dict(current)
        return Checkpoint(at, copied(self.module), _own(self.optimizer.state_dict()), self._average(), best)

    def _roll_back(self, held: Checkpoint) -> None:
        at = held.progress
        at.epoch += 1
        at.rollbacks += 1
        at.rate /= 2
        good = "before any training" if len(at.notes) == 0 and at.epoch == 1 else "at the end of the last good pass"
        at.notes.append(
            f"{self.name}: the loss was no number in pass {at.epoch}; it went back to the weights {good} and halved "
            f"the learning rate{'; that was enough' if at.rollbacks >= ROLLBACKS else ''}"
        )
        log.warning("%s", at.notes[-1])
        self._return_to(held)

    def _return_to(self, held: Checkpoint) -> None:
        self.module.load_state_dict(held.module)
        self.optimizer.load_state_dict(_own(held.optimizer))
        self.average = {name: value.to(self.device).clone() for name, value in held.average.items()}

    def _score(self) -> list[float]:
        import torch

        judge = self.task.judge
        assert judge is not None  # its callers looked
        self.module.eval()
        parts: list[dict[str, Tensor]] = []
        answers: list[dict[str, Tensor]] = []
        with torch.no_grad():
            for start in range(0, len(judge), JUDGE_BATCH):
                feeds, _ = judge.at(np.arange(start, min(start + JUDGE_BATCH, len(judge))))
                arguments = self._arguments(feeds)
                parts.append(named_outputs(self.module(*arguments)))
                if self.wanted is None and self.teacher is not None:
                    answers.append(named_outputs(self.teacher(*arguments)))
        if self.wanted is None:
            self.wanted = Targets(_on(self.device, judge.labels), _joined(answers) if answers else None)
        return score(_joined(parts), self.wanted, self.settings)

    def _average(self) -> "dict[str, Tensor]":
        return {name: value.clone() for name, value in self.average.items()}

    def _seed(self, epoch: int) -> int:
        return int(np.random.default_rng([self.settings.seed, epoch, self.rank, 1]).integers(2**31))

    def _summary(self, at: Progress) -> str:
        words = f"{self.name}: {at.epoch} passes of {self.steps} steps in {at.seconds:.0f} s on {self.device.type}"
        if self.settings.precision != "fp32":
            words += " in bf16" if self.bf16 else ", in fp32 since it has no instructions for bf16"
            words += "" if not self.bf16 or _has_bf16(self.device.type) else ", for which it has no instructions"
        if self.world > 1:
            words += f" in {self.world} processes"
        if not at.score:
            return f"{words}; the last weights were kept"
        which = f"best after pass {at.score_epoch}" if at.score_epoch else "no pass was better, nothing was changed"
        return f"{words}; validate {score_in_words(at.first)} before, {score_in_words(at.score)} now, {which}"


def _has_bf16(device: str) -> bool:
    """Whether it has instructions for bf16; a processor without takes ten times as long in it as in fp32, and more."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(BF16 & set(host.facts(gpus=False).instruction_sets)) if device == "cpu" else False


def rate(settings: "Step", share: float) -> float:
    """The learning rate at a share of the training, as a factor of the highest."""
    if share < settings.warmup:
        return max(share, 1e-3) / settings.warmup
    share = (share - settings.warmup) / (1 - settings.warmup)
    if settings.schedule == "constant":
        return 1.0
    if settings.schedule == "onecycle" and share < ONECYCLE_UP:
        return ONECYCLE_START + (1 - ONECYCLE_START) * (1 - math.cos(math.pi * share / ONECYCLE_UP)) / 2
    if settings.schedule == "onecycle":
        share = (share - ONECYCLE_UP) / (1 - ONECYCLE_UP)
    return (1 + math.cos(math.pi * share)) / 2


def _augmented(augment: Augment, feeds: dict[str, Array], random: np.random.Generator) -> dict[str, Array]:
    try:
        found = {name: np.ascontiguousarray(value) for name, value in augment(dict(feeds), random).items()}
    except Exception as error:
        raise InputError(f"the augmentation raised {type(error).__name__}: {error}") from error
    for name, value in feeds.items():
        got = found.get(name)
        if got is None or got.dtype != value.dtype or got.shape != value.shape:
            what = "nothing" if got is None else f"{got.dtype} {got.shape}"
            raise InputError(f"the augmentation returned {what} for '{name}'; it must be {value.dtype} {value.shape}.")
    return found


def _on(device: "torch.device", labels: Array | None) -> "Tensor | None":
    import torch

    return None if labels is None else torch.from_numpy(labels).to(device)


def _joined(parts: "list[dict[str, Tensor]]") -> "dict[str, Tensor]":
    import torch

    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _own(state: Any) -> Any:
    """An optimizer's state in memory of its own: it hands out, and keeps, references to what it goes on to change."""
    import copy

    return copy.deepcopy(state)
