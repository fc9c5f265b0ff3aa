"""Is a model's batch open in more than its name? Its answers to a batch are compared with those to single samples."""

from pathlib import Path

from runtime.contender import Contender, Worker
from runtime.engines import relative_error
from runtime.errors import InputError, WorkError
from runtime.tensors import Array

ALONE = 0.1  # relative, from which on an answer depends on the samples beside it


class Baked(InputError):
    """A model whose batch is open in name only."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"the model's first axis is open, but its batch is fixed inside: {why}. Give the shape that it takes, "
            "[model.inputs.NAME] shape = [1, ...] or --shape NAME=1,..."
        )


def runs(original: Contender, feeds: dict[str, Array], log: Path | None) -> bool:
    """Whether it takes these at all."""
    try:
        with Worker.start(original, feeds, log):
            return True
    except WorkError:
        return False


def differs(worker: Worker, original: Contender, feeds: dict[str, Array], least: int) -> str:
    """How the first and the last samples of a batch are answered otherwise when asked for alone; empty where not."""
    batch = len(next(iter(feeds.values())))
    for start in (0, batch - least):
        alone = worker.run({name: value[start : start + least] for name, value in feeds.items()})
        for name, value in alone.items():
            whole = worker.outputs[name]
            if not value.ndim or len(value) != least or len(whole) not in (least, batch):
                continue  # it has no row a sample
            if len(whole) == least:
                return f"'{name}' has {least} rows for {batch} samples"
            part = {name: whole[start : start + least]}
            error, _ = relative_error(part, {name: value}, original.decoding)
            if error > ALONE:
                return f"a sample's '{name}' differs by {error:.2g} (relative) in a batch of {batch}"
    return ""
