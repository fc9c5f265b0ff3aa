"""What this machine is: processor, the cores and the memory that a container leaves, GPUs, engine libraries."""

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# The instruction sets on which the choice of an int8 or half-precision kernel turns, as Linux names them.
INSTRUCTION_SETS = (
    "avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_int8", "amx_bf16", "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve",
)  # fmt: skip


@dataclass(frozen=True)
class Host:
    """The facts that decide what runs here and that stand beside every figure.

    Attributes:
        cores: how many this process may keep busy: affinity and cgroup quota, rounded up.
        memory_bytes: the cgroup's limit where there is one, else the machine's.
    """

    system: str
    architecture: str
    cpu: str
    instruction_sets: tuple[str, ...]
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    governor: str | None
    python: str

    def to_json(self) -> dict[str, Any]:
        """As it stands in reports."""
        return asdict(self)


def facts(gpus: bool = True) -> Host:
    """Read the facts of this machine; none of them costs more than reading a file, but for the GPUs."""
    model, flags = _processor()
    return Host(
        system=platform.system(),
        architecture=platform.machine(),
        cpu=model,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
        cores=cores(),
        memory_bytes=_memory(),
        gpus=_gpus() if gpus else (),
        governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        python=platform.python_version(),
    )


def cores() -> int:
    """The cores that this process may keep busy: its affinity, and a container's quota if that is lower."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _cgroups():
        quota = _read(folder / "cpu.max")  # version 2: "quota period", or "max period"
        if quota and not quota.startswith("max"):
            limit, period = (int(part) for part in quota.split())
            allowed = min(allowed, max(1, -(-limit // period)))
        limit_v1, period_v1 = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if limit_v1 and period_v1 and int(limit_v1) > 0:
            allowed = min(allowed, max(1, -(-int(limit_v1) // int(period_v1))))
    return allowed


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """The installed versions of some distributions; one that is not installed is left out."""
    from importlib import metadata  # costs 35 ms, so only where a report is written

    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> tuple[str, frozenset[str]]:
    """The model's name and the flags; on a system without /proc/cpuinfo what Python knows, and no flags."""
    text = _read(Path("/proc/cpuinfo")) or ""
    lines: dict[str, str] = {}
    for line in text.splitlines():  # the first core's; an ARM board's own name comes after the cores
        name, _, value = line.partition(":")
        lines.setdefault(name.strip(), value.strip())
    model = lines.get("model name") or lines.get("Model") or platform.processor() or platform.machine()
    return model, frozenset((lines.get("flags") or lines.get("Features") or "").split())


def _memory() -> int:
    total = 0
    for line in (_read(Path("/proc/meminfo")) or "").splitlines():
        if line.startswith("MemTotal:"):
            total = int(line.split()[1]) * 1024
    for folder in _cgroups():
        limit = _read(folder / "memory.max") or _read(folder / "memory.limit_in_bytes")
        if limit and limit.isdigit():
            total = min(total, int(limit)) if total else int(limit)
    return total


def _gpus() -> tuple[str, ...]:
    """NVIDIA GPUs with driver and memory, as the driver's own tool names them; none where it is not installed."""
    import subprocess  # with what it loads it costs as much as all of this file

    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def _cgroups() -> list[Path]:
    """The folders of this process's control groups, each level up to the root: the tightest limit counts."""
    root = Path("/sys/fs/cgroup")
    folders = []
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and not {"cpu", "memory"} & set(controllers.split(",")):  # of version 1, a tree each
            continue
        base = root if not controllers else root / controllers
        level = base / path.lstrip("/")
        folders += [folder for folder in (level, *level.parents) if folder.is_relative_to(base)]
    return list(dict.fromkeys([*folders, root]))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
