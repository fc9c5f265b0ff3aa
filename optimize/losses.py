"""What recovery minimizes, and the score by which early stopping chooses.

A classifier (whole-number labels) learns from cross-entropy and from the original's softened answers (Hinton et al.
2015, arXiv:1503.02531). Without labels nobody knows whether outputs are logits, so the mean square to the original's
is taken, which serves logits as well (Kim et al. 2021, arXiv:2105.08919) and keeps what a softmax would lose.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from optimize.steps.recover import Step


@dataclass(frozen=True)
class Targets:
    """What a batch should give: its labels, and the original's outputs by name; at least one of them."""

    labels: "Tensor | None"
    answers: "Mapping[str, Tensor] | None"


def loss(got: "Mapping[str, Tensor]", wanted: Targets, settings: "Step") -> "Tensor":
    """A scalar to minimize.

    Raises:
        InputError: the labels do not fit the first output.
    """
    from torch.nn import functional

    first = next(iter(got.values()))
    labels, answers = wanted.labels, wanted.answers
    if labels is None:
        assert answers is not None  # the step saw to it that there is one of the two
        return _distance(got, answers)
    if labels.is_floating_point():
        if labels.shape != first.shape:
            labels = labels.view_as(first) if labels.numel() == first.numel() else labels
        if labels.shape != first.shape:
            raise InputError(f"labels {tuple(labels.shape)} do not fit the first output, {tuple(first.shape)}.")
        hard = functional.mse_loss(first, labels.to(first.dtype))
        soft = _distance(got, answers) if answers else hard
    else:
        if labels.ndim != first.ndim - 1:
            raise InputError(
                f"whole-number labels {tuple(labels.shape)} do not fit the first output, {tuple(first.shape)}: they "
                "are (N, ...) for (N, classes, ...). Without labels recover learns from the original alone."
            )
        hard = functional.cross_entropy(first, labels.long())
        soft = hard
        if answers:
            hot = settings.temperature
            teacher = (next(iter(answers.values())) / hot).log_softmax(1)
            # times T^2, or a higher temperature would make the gradient smaller; a batch's mean, as cross-entropy's is
            soft = (
                hot**2
                * functional.kl_div((first / hot).log_softmax(1), teacher, reduction="none", log_target=True)
                .sum(1)
                .mean()
            )
    return (1 - settings.distill) * hard + settings.distill * soft if answers else hard


def score(got: "Mapping[str, Tensor]", wanted: Targets, settings: "Step") -> list[float]:
    """More is better, compared from left to right: a classifier's accuracy, then the loss with its sign changed."""
    first = next(iter(got.values()))
    minus = -float(loss(got, wanted, settings))
    if wanted.labels is None or wanted.labels.is_floating_point():
        return [minus]
    return [float((first.argmax(1) == wanted.labels).float().mean()), minus]


def score_in_words(found: list[float]) -> str:
    """As the report has it."""
    return f"accuracy {found[0]:.4f}" if len(found) > 1 else f"loss {-found[0]:.4g}"


def _distance(got: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]") -> "Tensor":
    """Mean square to the original's outputs over their variance: the learning rate need not know their scale."""
    parts = [
        (got[name] - value).square().mean() / value.var(correction=0).clamp_min(1e-12)
        for name, value in wanted.items()
        if value.is_floating_point()
    ]
    if not parts:
        raise InputError("recover needs labels where no output is of floating point.")
    return sum(parts[1:], parts[0])
