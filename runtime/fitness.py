"""Does an engine fit this machine: what it needs, as it was built, beside what is found here."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.bundle import EngineEntry
from runtime.host import Host

FACTS = ("version", "compute_capability", "cuda", "driver")  # of an engine library: `engines.*.facts`


@dataclass(frozen=True)
class Misfit:
    """Why an engine does not fit here, and whether compiling it anew would help."""

    reason: str
    curable: bool


def misfit(entry: EngineEntry, host: Host, found: Mapping[str, str]) -> Misfit | None:
    """The first need that is not met; None where all are.

    Args:
        entry: its `needs` have `instruction_sets_any`, of which one must be there; `layout`, instruction set to
            whether it must be there; and of `FACTS` a table each: `is`, the very version, or `from`, the oldest.
        host: the processor.
        found: `engines.<engine>.facts()`.
    """
    wanted = entry.needs.get("instruction_sets_any", ())
    if wanted and not set(wanted) & set(host.instruction_sets):
        # its numbers come from its Q/DQ file, which stays what it is however often it is compiled
        return Misfit(f"it needs one of {', '.join(wanted)}, and this processor has none", curable=False)
    if not entry.files:
        return Misfit("it could not be built on the build host, and travels as its source only", curable=True)
    for name, there in entry.needs.get("layout", {}).items():
        if there != (name in host.instruction_sets):
            has = "has it" if not there else "has it not"
            said = f"it was compiled for a processor {'with' if there else 'without'} {name}, and this one {has}"
            return Misfit(said, curable=True)
    for fact in FACTS:
        limits: Mapping[str, Any] = entry.needs.get(fact, {})
        here = found.get(fact, "")
        what = f"{fact.replace('_', ' ')} of {entry.engine}"
        if "is" in limits and _parts(here) != _parts(limits["is"]):
            return Misfit(f"it was built for {what} {limits['is']}, here is {here or 'none'}", curable=True)
        if "from" in limits and _parts(here) < _parts(limits["from"]):
            return Misfit(f"it needs {what} {limits['from']} or newer, here is {here or 'none'}", curable=True)
    return None


def oldest(version: str) -> str:
    """The first two numbers of a version: patches do not change what files a library reads."""
    return ".".join(map(str, _parts(version)[:2]))


def _parts(version: str) -> tuple[int, ...]:
    """The leading numbers: (2026, 4, 1) of 2026.4.1-22982-abc."""
    start = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in start[0].split(".")) if start else ()
