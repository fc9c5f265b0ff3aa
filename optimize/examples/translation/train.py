"""Train the translator: `python train.py [weights.pth]`."""

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
    digits, words = (torch.from_numpy(array) for array in splits()["calibrate"].values())
    words = words + 1  # 0 is the end, and what stands behind it
    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(digits) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(digits)).split(BATCH):
            optimizer.zero_grad()
            scores = net.taught(digits[batch], words[batch])
            functional.cross_entropy(scores.flatten(0, 1), words[batch].flatten()).backward()
            optimizer.step()
            schedule.step()
        progress(epoch + 1, EPOCHS, "passes")
    torch.save(net.state_dict(), path)


if __name__ == "__main__":
    train(Path(sys.argv[1] if len(sys.argv) > 1 else MADE))
