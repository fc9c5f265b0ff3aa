"""Train the towers: `python train.py [weights.pth]`."""

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

MADE, EPOCHS, BATCH = "weights.pth", 12, 128


def train(path: Path, seed: int = 0, progress: Callable[[int, int, str], None] = lambda *_: None) -> None:
    """Train on calibrate, and write the state dict to `path`."""
    torch.manual_seed(seed)
    user, items, taken = (torch.from_numpy(array) for array in splits()["calibrate"].values())
    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=3e-2)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(user)).split(BATCH):
            optimizer.zero_grad()
            scores = net(user[batch], items[batch])
            # what was taken against all that was shown
            functional.cross_entropy(scores, taken[batch] / taken[batch].sum(1, keepdim=True)).backward()
            optimizer.step()
        progress(epoch + 1, EPOCHS, "passes")
    torch.save(net.state_dict(), path)


if __name__ == "__main__":
    train(Path(sys.argv[1] if len(sys.argv) > 1 else MADE))
