"""PyTorch as it is, with the number of threads that suits it best.

https://docs.pytorch.org/docs/stable/notes/cpu_threading_torchscript_inference.html
"""

from typing import Any

from rivals import Task, Way, thread_counts

VARIANTS: dict[str, dict[str, Any]] = {"eager": {}}


def prepare(task: Task) -> list[Way]:
    opener = "optimize.sources:open_original"
    return [
        Way(f"torch threads={count}" if count else "torch", opener, {"spec": {**task.torch_model, "threads": count}})
        for count in (None, *thread_counts())
    ]
