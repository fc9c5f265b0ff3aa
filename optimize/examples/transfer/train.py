"""Learn 0 to 7, keep the body, learn 8 and 9 from five pictures each: `python train.py [weights.pth]`.

As a script it also trains the same network from scratch on those few pictures, for the README's table.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

try:  # by `optimize demo`
    from .data import many, splits
    from .model import Transferred, build
except ImportError:  # as a script
    from data import many, splits
    from model import Transferred, build

MADE, EPOCHS, BATCH, STEPS = "weights.pth", 6, 64, 60


def train(path: Path, seed: int = 0, progress: Callable[[int, int, str], None] = lambda *_: None) -> None:
    """Train the body, then a head on it, and write the state dict to `path`."""
    torch.manual_seed(seed)
    net = with_body(learned(progress))
    fit(net, net.head, *splits()["calibrate"])
    torch.save(net.state_dict(), path)


def learned(progress: Callable[[int, int, str], None] = lambda *_: None) -> nn.Module:
    """The network that tells 0 to 7."""
    x, y = map(torch.from_numpy, many())
    net = Transferred(classes=8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    for epoch in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            moved = torch.roll(x[batch], torch.randint(-1, 2, (2,)).tolist(), (2, 3))
            _step(net, optimizer, moved, y[batch])
        progress(epoch + 1, EPOCHS, "the body, on 0 to 7")
    return net


def with_body(teacher: nn.Module) -> nn.Module:
    """A new network with this body, frozen: its weights, and by `eval` the statistics of its norms."""
    net = build()
    net.body.load_state_dict(teacher.body.state_dict())
    return net.eval()


def fit(net: nn.Module, learns: nn.Module, x: np.ndarray, y: np.ndarray) -> None:
    """Fit a part of a network to a few samples."""
    optimizer = torch.optim.AdamW(learns.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(STEPS):
        _step(net, optimizer, torch.from_numpy(x), torch.from_numpy(y))


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(net(x), y).backward()
    optimizer.step()


def accuracy(net: nn.Module, x: np.ndarray, y: np.ndarray) -> float:
    """The share of samples that are told right."""
    with torch.inference_mode():
        return float((net.eval()(torch.from_numpy(x)).argmax(1).numpy() == y).mean())


def compare(few: int, teacher: nn.Module, draws: int = 10) -> tuple[float, float]:
    """Accuracy on test with the body transferred, and from scratch, the mean over draws of the few samples."""
    found = []
    for draw in range(draws):
        data = splits(few, draw)
        torch.manual_seed(draw)
        transferred, scratch = with_body(teacher), build()
        fit(transferred, transferred.head, *data["calibrate"])
        fit(scratch, scratch, *data["calibrate"])
        found.append([accuracy(transferred, *data["test"]), accuracy(scratch, *data["test"])])
    return tuple(np.mean(found, 0).tolist())


if __name__ == "__main__":
    train(Path(sys.argv[1] if len(sys.argv) > 1 else MADE))
    torch.manual_seed(0)
    taught = learned()
    for count in (3, 5, 10, 20):
        print("{} of each: transferred {:.3f}, from scratch {:.3f}".format(count, *compare(count, taught)), flush=True)
