"""The processes of `accelerate launch`: they train together, and all else is the first one's."""

import os
from typing import Any


def count() -> int:
    """How many there are; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def first() -> bool:
    """Whether this is the one that does everything."""
    return int(os.environ.get("RANK") or 0) == 0


def shared(value: Any) -> Any:
    """The first process's value, in all of them; each has to call this as often as the others."""
    if count() == 1:
        return value
    from accelerate import Accelerator
    from accelerate.utils import broadcast_object_list

    Accelerator()  # joins the group, where that was not done yet
    return broadcast_object_list([value])[0]


def part() -> None:
    """Leave the group: what is started from now on is no part of it, and waits for nobody."""
    if count() == 1:
        return
    from accelerate import Accelerator

    Accelerator().state.destroy_process_group()
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
