"""Where a training stands, in memory and on disk, so that a killed run goes on.

On disk: weights in safetensors, the optimizer's state read without unpickling code, and the rest in JSON, which is
replaced last and names the others, so that a half-written checkpoint is never read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

State = dict[str, "Tensor"]
FILE = "recover.json"


@dataclass
class Progress:
    """What is known at the end of a pass over the data.

    Attributes:
        epoch: passes done.
        seconds: of training, in all runs together.
        rate: the learning rate's factor, halved by each rollback.
        rollbacks: how often a loss was no number.
        first: the score on validate before any training; empty without validate.
        score: the best one; more is better, compared from left to right.
        score_epoch: after which it was reached.
        waited: passes since then.
        notes: what happened, for the report.
    """

    epoch: int = 0
    seconds: float = 0.0
    rate: float = 1.0
    rollbacks: int = 0
    first: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    score_epoch: int = 0
    waited: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass
class Checkpoint:
    """The last good state of a training; `average` and `best` are empty where there are none."""

    progress: Progress
    module: State
    optimizer: dict[str, Any]
    average: State
    best: State


def copied(module: "nn.Module") -> State:
    """The module's weights and buffers, of their own memory."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def fingerprint(settings: str, state: Mapping[str, "Tensor"]) -> str:
    """Of what a training begins with: a checkpoint of another one is of no use."""
    digest = hashlib.sha256(settings.encode())
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().numpy().tobytes())
    return digest.hexdigest()


def write(checkpoint: Checkpoint, folder: Path, key: str) -> None:
    """Put a checkpoint into a folder, in the place of the one before."""
    import torch
    from safetensors.torch import save_file

    epoch = checkpoint.progress.epoch
    folder.mkdir(parents=True, exist_ok=True)
    weights, optimizer = folder / f"recover-{epoch}.safetensors", folder / f"recover-{epoch}.pt"
    parts = {"module": checkpoint.module, "average": checkpoint.average, "best": checkpoint.best}
    # cloned, since safetensors refuses tensors that share memory
    state = {f"{part}/{name}": v.clone().contiguous() for part, values in parts.items() for name, v in values.items()}
    save_file(state, weights)
    torch.save(checkpoint.optimizer, optimizer)
    written = {"key": key, "weights": weights.name, "optimizer": optimizer.name, **asdict(checkpoint.progress)}
    new = folder / f"{FILE}.new"
    new.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    new.replace(folder / FILE)
    for old in (*folder.glob("recover-*.safetensors"), *folder.glob("recover-*.pt")):
        if old not in (weights, optimizer):
            old.unlink()


def read(folder: Path, key: str) -> Checkpoint | None:
    """The checkpoint in a folder; None where there is none of this training, or it is damaged."""
    import torch
    from safetensors.torch import load_file

    try:
        written = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if written.pop("key") != key:
            return None
        state = load_file(folder / Path(written.pop("weights")).name)
        optimizer = torch.load(folder / Path(written.pop("optimizer")).name, map_location="cpu", weights_only=True)
        parts: dict[str, State] = {"module": {}, "average": {}, "best": {}}
        for name, value in state.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        return Checkpoint(Progress(**written), optimizer=optimizer, **parts)
    except Exception:  # a missing file is the usual case; a damaged one costs the time that it would have saved
        return None
