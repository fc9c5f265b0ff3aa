"""Who else used the processor while something was measured: named, so that one knows what to stop.

A process that comes and goes meanwhile is seen in the time of its parent, which is told of it once it has ended.
"""

import os
import time
from collections import defaultdict
from dataclasses import dataclass

LEAST = 0.05  # of one core: what is worth naming


@dataclass(frozen=True)
class _Used:
    """CPU seconds of a process and of those of its children that have ended."""

    name: str
    parent: int
    seconds: float


@dataclass(frozen=True)
class Neighbours:
    """CPU seconds of every process at one moment, and of what the host took from this virtual machine."""

    at: float
    used: dict[tuple[int, float], _Used]
    stolen: float

    @classmethod
    def now(cls) -> "Neighbours":
        """Read them; a process that may not be read is left out."""
        import psutil

        own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        used = {}
        for process in psutil.process_iter(["pid", "ppid", "create_time", "name", "cpu_times"]):
            seen = process.info
            if seen["pid"] in own or not seen["cpu_times"]:
                continue
            kinds = ("user", "system", "children_user", "children_system")
            spent = sum(getattr(seen["cpu_times"], kind, 0.0) for kind in kinds)
            used[seen["pid"], seen["create_time"]] = _Used(seen["name"] or "?", seen["ppid"], spent)
        return cls(time.monotonic(), used, getattr(psutil.cpu_times(), "steal", 0.0))

    def since(self, before: "Neighbours") -> list[str]:
        """What was busy between two moments, busiest first: `python (pid 7) 98 % of a core`."""
        seconds = max(self.at - before.at, 1e-9)
        gone = {key[0]: one for key, one in before.used.items() if key not in self.used}
        inherited: defaultdict[int, float] = defaultdict(float)  # of what was spent before, by who was told of it since
        for one in gone.values():
            heir = one.parent
            while heir in gone:
                heir = gone[heir].parent
            inherited[heir] += one.seconds
        shares = []
        for key, one in self.used.items():
            earlier = before.used[key].seconds if key in before.used else 0.0
            share = (one.seconds - earlier - inherited[key[0]]) / seconds
            if share >= LEAST:
                shares.append((share, f"{one.name} (pid {key[0]})"))
        stolen = (self.stolen - before.stolen) / seconds
        if stolen >= LEAST:
            shares.append((stolen, "the host of this virtual machine"))
        return [f"{name} {share:.0%} of a core" for share, name in sorted(shares, reverse=True)]
