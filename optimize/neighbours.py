"""Who else used the processor while something was measured: named, so that one knows what to stop."""

import os
import time
from dataclasses import dataclass

LEAST = 0.05  # of one core: what is worth naming


@dataclass(frozen=True)
class Neighbours:
    """CPU seconds of every process at one moment, and of what the host took from this virtual machine."""

    at: float
    used: dict[tuple[int, float], tuple[str, float]]
    stolen: float

    @classmethod
    def now(cls) -> "Neighbours":
        """Read them; a process that may not be read is left out."""
        import psutil

        own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
        used = {}
        for process in psutil.process_iter(["pid", "create_time", "name", "cpu_times"]):
            seen = process.info
            if seen["pid"] in own or not seen["cpu_times"]:
                continue
            spent = seen["cpu_times"].user + seen["cpu_times"].system
            used[seen["pid"], seen["create_time"]] = (seen["name"] or "?", spent)
        return cls(time.monotonic(), used, getattr(psutil.cpu_times(), "steal", 0.0))

    def since(self, before: "Neighbours") -> list[str]:
        """What was busy between two moments, busiest first: `python (pid 7) 98 % of a core`."""
        seconds = max(self.at - before.at, 1e-9)
        shares = []
        for key, (name, spent) in self.used.items():
            share = (spent - before.used.get(key, ("", 0.0))[1]) / seconds
            if share >= LEAST:
                shares.append((share, f"{name} (pid {key[0]})"))
        stolen = (self.stolen - before.stolen) / seconds
        if stolen >= LEAST:
            shares.append((stolen, "the host of this virtual machine"))
        return [f"{name} {share:.0%} of a core" for share, name in sorted(shares, reverse=True)]
