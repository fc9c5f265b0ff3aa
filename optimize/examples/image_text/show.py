"""Pictures with their questions and what was answered, as `answers.png`: `python show.py`, beside its recipe."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import runtime

try:  # by `optimize demo`
    from .data import in_words, splits
    from .model import build
except ImportError:  # as a script
    from data import in_words, splits
    from model import build

ROWS, COLUMNS = 3, 6


def show(folder: Path) -> str:
    """Draw eighteen of test, first those that original and bundle answer differently."""
    data = splits()["test"]
    image, question, wanted = data["image"], data["question"], data["y"]
    net = build()
    net.load_state_dict(torch.load(folder / "example" / "weights.pth"))
    with torch.inference_mode():
        before = net.eval()(torch.from_numpy(image), torch.from_numpy(question)).argmax(1).numpy()
    with runtime.load(folder / "bundle") as model:
        chosen = model.engine
        after = model(image, question).argmax(1)
    order = np.argsort(after == before, kind="stable")[: ROWS * COLUMNS]
    figure = Figure((2 * COLUMNS, 2.4 * ROWS), layout="constrained")
    for place, i in zip(figure.subplots(ROWS, COLUMNS).flat, order, strict=True):
        place.imshow(image[i, 0], cmap="gray_r")
        said = "no", "yes"
        place.set_title(
            f"{in_words(question[i])}?\noriginal {said[before[i]]}, now {said[after[i]]}",
            fontsize=9,
            color="black" if after[i] == wanted[i] else "firebrick",
        )
        place.set_axis_off()
    figure.savefig(folder / "answers.png", dpi=100)
    return (
        f"{folder / 'answers.png'}: {(before != after).sum()} of {len(wanted):,} questions are answered differently by "
        f"{chosen}; what it answers wrong is in red."
    )


if __name__ == "__main__":
    print(show(Path(__file__).resolve().parents[1]))
