"""Entry points of the zoo's torch models, with their original weights."""

import torch
from scripts import script
from torch import nn


def resnet20():
    return script("resnet_cifar10").load(20)


def resnet56():
    return script("resnet_cifar10").load(56)


def mobilenet_v1_025():
    return script("mobilenet_v1_025_224").load()


class Pairs(nn.Module):
    """How alike two sentences are, in -1 to 1: token numbers and masks (N, 2, T) to cosines (N,)."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, ids, mask):
        """Of both sentences of each pair, in one batch."""
        unit = self.encoder(ids.flatten(0, 1), mask.flatten(0, 1)).unflatten(0, (-1, 2))
        return (unit[:, 0] * unit[:, 1]).sum(-1)


def minilm_pairs():
    return Pairs(script("minilm_l6_v2").load())


def dncnn():
    return script("dncnn_25").load()


def espnetv2():
    return script("espnetv2_pascal").load()


class Detector(nn.Module):
    """FastestDet's grid (N, 85, 22, 22) as boxes: (N, 484, 84) of corners in pixels and a score for each class."""

    def __init__(self, net, size):
        super().__init__()
        self.net, self.size = net, size

    def forward(self, image):
        """Its author's decoding, without the choice among the boxes."""
        grid = self.net(image).flatten(2).transpose(1, 2)
        side = self.size // 16
        place = torch.arange(side * side)
        middle = (grid[..., 1:3].tanh() + torch.stack([place % side, place // side], -1)) / side
        half = grid[..., 3:5].sigmoid() / 2
        scores = grid[..., :1] ** 0.6 * grid[..., 5:] ** 0.4
        return torch.cat([(middle - half) * self.size, (middle + half) * self.size, scores], -1)


def fastestdet():
    module = script("fastestdet")
    return Detector(module.load(), module.SIZE).eval()


def kws():
    return script("mlperftiny_kws_dscnn").load()
