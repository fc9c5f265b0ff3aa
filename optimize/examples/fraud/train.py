"""Train the network: `python train.py [weights.pth]`."""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional

try:  # by `optimize demo`
    from .data import splits
    from .model import build
except ImportError:  # as a script
    from data import splits
    from model import build

MADE, EPOCHS, BATCH = "weights.pth", 6, 256


def train(path: Path, seed: int = 0, progress: Callable[[int, int, str], None] = lambda *_: None) -> None:
    """Train on calibrate, and write the state dict to `path`."""
    torch.manual_seed(seed)
    x, y = map(torch.from_numpy, splits()["calibrate"])
    net = build()
    features = net.features(x)
    net.mean.copy_(features.mean(0))
    net.scale.copy_(1 / features.std(0))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
        progress(epoch + 1, EPOCHS, "passes")
    torch.save(net.state_dict(), path)


if __name__ == "__main__":
    train(Path(sys.argv[1] if len(sys.argv) > 1 else MADE))
