"""The same regression in torch, whose one layer takes its weights from scikit-learn's: `source` is what differs."""

from pathlib import Path

import skops.io
import torch
from torch import nn


def build() -> nn.Module:
    """A linear layer with the weights of `model.skops`, which lies beside."""
    fitted = skops.io.load(Path(__file__).with_name("model.skops"))
    layer = nn.Linear(len(fitted.coef_), 1)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(fitted.coef_)[None])
        layer.bias.fill_(float(fitted.intercept_))
    return nn.Sequential(layer, nn.Flatten(0))
