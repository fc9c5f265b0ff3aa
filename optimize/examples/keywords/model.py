"""A small convolutional network on a spectrogram, with its scaling inside."""

import torch
from torch import nn


class Keywords(nn.Module):
    """Input (N, 1, 32, 47) log-mel, output (N, 8) logits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(1)]
        for channels_in, channels_out, stride in ((1, 32, 2), (32, 64, 2), (64, 64, 1), (64, 128, 2)):
            layers += [
                nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels_out),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(128, 8)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        """The features' mean over bands and time, weighed."""
        return self.classifier(self.body(spectrum).mean((2, 3)))


def build() -> nn.Module:
    """Untrained; `train.py` makes its weights."""
    return Keywords()
