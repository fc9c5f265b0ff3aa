"""A picture and a question: what the question says scales and shifts the channels of the picture's features.

That is FiLM (Perez et al. 2018, arXiv:1709.07871).
"""

import torch
from torch import nn
from torch.nn import functional

WORDS, LENGTH, WIDE = 21, 5, 64


class PictureAndQuestion(nn.Module):
    """Inputs image (N, 1, 8, 8) in [0, 1] and question (N, 5) int64 word numbers; output (N, 2) logits: no, yes."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, WIDE, 3, padding=1, bias=False), nn.BatchNorm2d(WIDE), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(WIDE, WIDE, 3, padding=1, bias=False), nn.BatchNorm2d(WIDE), nn.ReLU(), nn.Flatten(),
            nn.Linear(WIDE * 16, 128), nn.ReLU(),
        )  # fmt: skip
        self.words = nn.Embedding(WORDS, 32)
        self.question = nn.Sequential(nn.Flatten(), nn.Linear(32 * LENGTH, 128), nn.ReLU(), nn.Linear(128, 256))
        self.answer = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 2))

    def forward(self, image: torch.Tensor, question: torch.Tensor) -> torch.Tensor:
        """The picture's features, scaled and shifted by the question."""
        scale, shift = self.question(self.words(question)).chunk(2, 1)
        return self.answer(functional.relu(self.picture(image) * (1 + scale) + shift))


def build() -> nn.Module:
    """Untrained; `train.py` makes its weights."""
    return PictureAndQuestion()
