"""Train on after pruning, from labels, from the unpruned model, or from both (Hinton et al. 2015, arXiv:1503.02531).

The unpruned model is the original, or what a `recover` before the pruning made of it: where the data is not what the
original was trained on, that is the better teacher.

It trains on Hugging Face accelerate: `accelerate launch -m optimize run RECIPE` trains on several GPUs or machines, and
the first process alone does the rest.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from optimize import training
from optimize.models import TorchModel
from optimize.steps import Context, Settings, name_of
from optimize.usercode import load_callable
from runtime.errors import InputError

if TYPE_CHECKING:
    from torch import nn


class Step(Settings):
    """Settings.

    Attributes:
        epochs: passes over calibrate; with `minutes`, whichever ends first.
        minutes: limit of the wall clock; the schedule follows the share of it that is gone.
        batch: samples a step, over all processes; the last, incomplete batch of a pass is left out.
        optimizer: `adamw`, or `sgd` with Nesterov's momentum of 0.9.
        lr: the highest learning rate.
        schedule: `cosine` to zero; `onecycle` up over the first 30 % and down; `constant`.
        warmup: share of the training over which the rate rises from zero.
        weight_decay: of weights; biases and norms have none.
        clip: largest norm of the gradient; 0 for none.
        ema: decay of the running average of the weights, which then is the result; 0 for none.
        distill: weight of the unpruned model's answers, 1 minus it of the labels; without labels it is all.
        temperature: of the softmax that is compared.
        precision: of the arithmetic; weights, norms' statistics and losses stay in fp32, and validate is judged in it.
            `auto` is bf16 where the GPU or the processor has instructions for it; without, it takes many times as long.
        augment: file.py:function(arrays by input name, numpy.random.Generator) -> arrays; relative to the recipe.
        patience: passes without a better result on validate after which to stop.
        seed: of the order, of dropout and of the augmentation.
    """

    trains: ClassVar[bool] = True
    label: ClassVar[str] = "recovered"
    epochs: int = Field(default=10, ge=1)
    minutes: float | None = Field(default=None, gt=0)
    batch: int = Field(default=128, ge=2)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    schedule: Literal["cosine", "onecycle", "constant"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip: float = Field(default=1.0, ge=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    distill: float = Field(default=0.5, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    augment: str | None = None
    patience: int | None = Field(default=None, ge=1)
    seed: int = 0

    def resolved(self, resolve: Callable[[str], str]) -> "Step":
        """With the place of `augment` made absolute."""
        return self.model_copy(update={"augment": resolve(self.augment)}) if self.augment else self

    def __call__(self, model: TorchModel, context: Context) -> TorchModel:
        """The model with better weights, on the processor; the one given is not changed.

        A checkpoint of the same model and settings in the context's folder is gone on from.

        Raises:
            InputError: there is nothing to learn from, or `augment` does not do what it should.
            StepError: training fails from its first step on.
        """
        module = taught(self, model, copy.deepcopy(model.module), context)
        return replace(model, module=module.eval())


def taught(settings: Step, model: TorchModel, module: "nn.Module", context: Context) -> "nn.Module":
    """A module trained in place, by labels, by the unpruned model's answers, or both.

    Args:
        settings: of the training.
        model: its inputs and masks.
        module: what is trained.
        context: with the data and the unpruned model.

    Raises:
        InputError: there is nothing to learn from, or `augment` does not do what it should.
        StepError: training fails from its first step on.
    """
    learn = training.Samples.of(context.calibrate, model.inputs)
    judge = training.Samples.of(context.validate, model.inputs) if context.validate else None
    teacher = copy.deepcopy(context.original.module).eval() if context.original else None
    if teacher is None and learn.labels is None:
        raise InputError(
            f"{name_of(settings)} has nothing to learn from: no labels in calibrate, and no original in torch."
        )
    task = training.Task(
        inputs=model.inputs,
        learn=learn,
        judge=judge,
        # where labels are all that counts it would only cost time
        teacher=teacher if settings.distill or learn.labels is None or (judge and judge.labels is None) else None,
        augment=load_callable(settings.augment, "augmentation") if settings.augment else None,
        masks=model.masks,
    )
    return training.train(module, settings, task, context.folder, context.progress, context.notes)
