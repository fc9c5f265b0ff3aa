"""Train the digits network: `python train.py [weights.pth] [seed]`, less than a minute on two cores.

Early stopping looks at 120 pictures held out of *calibrate*; *validate* and *test* are never seen here.
"""

import copy
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

try:  # by `optimize demo`
    from .data import shift, splits
    from .model import build
except ImportError:  # as a script
    from data import shift, splits
    from model import build

MADE = "weights.pth"
EPOCHS, BATCH, PATIENCE, HELD_OUT = 8, 64, 5, 120


def train(weights: Path, seed: int = 0, progress: Callable[[int, int, str], None] = lambda *_: None) -> float:
    """Train, write the state dict to `weights`, and return the held-out accuracy (0 to 1)."""
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    x, y = (torch.from_numpy(array) for array in splits()["calibrate"])
    shuffled = torch.from_numpy(order.permutation(len(x)))
    held_out, kept = shuffled[:HELD_OUT], shuffled[HELD_OUT:]

    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = -(-len(kept) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=EPOCHS * steps)
    best_loss, best_accuracy, best_state, waited = float("inf"), 0.0, copy.deepcopy(net.state_dict()), 0
    for epoch in range(EPOCHS):
        net.train()
        for batch in kept[torch.from_numpy(order.permutation(len(kept)))].split(BATCH):
            moved = torch.from_numpy(shift({"image": x[batch].numpy()}, order)["image"])
            loss = functional.cross_entropy(net(moved), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        net.eval()
        with torch.inference_mode():
            logits = net(x[held_out])
        held_out_loss = float(functional.cross_entropy(logits, y[held_out]))
        accuracy = float((logits.argmax(1) == y[held_out]).float().mean())
        if held_out_loss < best_loss:
            best_loss, best_accuracy, best_state, waited = held_out_loss, accuracy, copy.deepcopy(net.state_dict()), 0
        else:
            waited += epoch >= EPOCHS // 2  # while the learning rate is high the loss may well go up
        progress(epoch + 1, EPOCHS, f"held-out accuracy {accuracy:.3f}")
        if waited >= PATIENCE:
            break
    torch.save(best_state, weights)
    return best_accuracy


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("weights.pth"))
    reached = train(target, int(sys.argv[2]) if len(sys.argv) > 2 else 0, lambda *now: print(*now, flush=True))
    print(f"held-out accuracy {reached:.3f}, weights in {target}")
