"""Counters of energy: RAPL's of the processor, NVML's of each NVIDIA GPU. Of the whole chip, whoever uses it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """A counter of joules.

    Attributes:
        name: what it counts.
        joules: reads it; only differences mean something.
        wraps: at how many joules it begins again at zero; 0 where it does not.
    """

    name: str
    joules: Callable[[], float]
    wraps: float = 0.0

    def since(self, before: float) -> float:
        """Joules since it stood at `before`."""
        used = self.joules() - before
        return used + self.wraps if used < 0 else used


def meters(powercap: Path = POWERCAP) -> tuple[list[Meter], str]:
    """What can be read here, and where that is nothing, why."""
    found = [*_rapl(powercap), *_nvml()]
    if found:
        return found, ""
    zones = sorted(powercap.glob("intel-rapl:*"))
    if zones:
        return [], f"{zones[0]}/energy_uj may not be read: sudo chmod a+r {powercap}/intel-rapl:*/energy_uj"
    return [], f"there is no {powercap}/intel-rapl:* (a virtual machine has none), and no GPU that NVML can read"


def _rapl(powercap: Path) -> list[Meter]:
    """The packages; what lies below them (cores, memory) is counted in them."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text(encoding="ascii").strip()
            if not name.startswith("package"):
                continue
            wraps = float((zone / "max_energy_range_uj").read_text(encoding="ascii")) / 1e6
            meter = Meter(name, partial(_microjoules, zone / "energy_uj"), wraps)
            meter.joules()
        except (OSError, ValueError):  # energy_uj is root's alone since 2020 (CVE-2020-8694)
            continue
        found.append(meter)
    return found


def _microjoules(file: Path) -> float:
    return float(file.read_text(encoding="ascii")) / 1e6


def _nvml() -> list[Meter]:
    try:
        import pynvml
    except ImportError:
        return []
    found = []
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            meter = Meter(f"gpu {index}", partial(_millijoules, pynvml, pynvml.nvmlDeviceGetHandleByIndex(index)))
            meter.joules()
            found.append(meter)
    except pynvml.NVMLError:  # no driver, or a GPU before Volta
        pass
    return found


def _millijoules(nvml: ModuleType, device: Any) -> float:
    return float(nvml.nvmlDeviceGetTotalEnergyConsumption(device)) / 1e3
