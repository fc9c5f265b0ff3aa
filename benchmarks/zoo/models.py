"""Entry points of the zoo's torch models, with their original weights."""

from torch import nn
from zoo import script


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
