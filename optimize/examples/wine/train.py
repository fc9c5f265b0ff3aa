"""Train the softmax regression: `python train.py [weights.pth]`, in a second."""

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

MADE, STEPS = "weights.pth", 200


def train(path: Path, seed: int = 0, progress: Callable[[int, int, str], None] = lambda *_: None) -> None:
    """Train on calibrate, and write the state dict to `path`."""
    torch.manual_seed(seed)
    x, y = map(torch.from_numpy, splits()["calibrate"])
    net = build()
    net.mean.copy_(x.mean(0))
    net.scale.copy_(1 / x.std(0))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05, weight_decay=1e-3)
    for step in range(STEPS):
        optimizer.zero_grad()
        functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        if step % 50 == 0:
            progress(step, STEPS, "steps")
    torch.save(net.state_dict(), path)


if __name__ == "__main__":
    train(Path(sys.argv[1] if len(sys.argv) > 1 else MADE))
