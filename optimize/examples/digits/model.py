"""A small residual network for 32 x 32 grey pictures, as a user would hand it over: plain PyTorch."""

import torch
from torch import nn


class Block(nn.Module):
    """Two 3 x 3 convolutions with a shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (N, channels_in, H, W) to (N, channels_out, H / stride, W / stride)."""
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """Three stages of two blocks, 32, 64 and 128 channels; input (N, 1, 32, 32), output (N, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.stages = nn.Sequential(
            Block(32, 32, 1), Block(32, 32, 1),
            Block(32, 64, 2), Block(64, 64, 1),
            Block(64, 128, 2), Block(128, 128, 1),
        )  # fmt: skip
        self.classifier = nn.Linear(128, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map pictures (N, 1, 32, 32) in [0, 1] to logits (N, 10)."""
        features = self.stages(self.stem(image)).mean((2, 3))
        return self.classifier(features)


def build() -> nn.Module:
    """The network with random weights; the recipe's `weights` fill it."""
    return DigitsNet()
