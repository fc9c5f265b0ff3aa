"""Train on pictures and questions: `python train.py [weights.pth]`."""

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

MADE, EPOCHS, BATCH = "weights.pth", 8, 64


def train(path: Path, seed: int = 0, progress: Callable[[int, int, str], None] = lambda *_: None) -> None:
    """Train on calibrate, and write the state dict to `path`."""
    torch.manual_seed(seed)
    image, question, answer = (torch.from_numpy(array) for array in splits()["calibrate"].values())
    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * -(-len(image) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(image)).split(BATCH):
            moved = torch.roll(image[batch], torch.randint(-1, 2, (2,)).tolist(), (2, 3))
            optimizer.zero_grad()
            functional.cross_entropy(net(moved, question[batch]), answer[batch]).backward()
            optimizer.step()
            schedule.step()
        progress(epoch + 1, EPOCHS, "passes")
    torch.save(net.state_dict(), path)


if __name__ == "__main__":
    train(Path(sys.argv[1] if len(sys.argv) > 1 else MADE))
