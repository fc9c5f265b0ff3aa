"""What this machine can build and run, and the command that mends each lack."""

from typing import Any

import targets
from runtime import engines
from runtime.host import facts, versions
from targets import saturates


def examine() -> dict[str, Any]:
    """The machine, the engine libraries, the targets, and what a reader of a benchmark should know of it."""
    host = facts()
    found = {name: engines.get(name).DISTRIBUTION for name in engines.names()}
    installed = versions([*found.values(), "torch", "numpy", "edge-optimize"])
    notes = []
    if saturates("host", host):
        notes.append("no VNNI: int8 products are summed in 16 bits, so weights get 7, or 8 if they hold; it gains less")
    if "avx512_bf16" in host.instruction_sets or "amx_bf16" in host.instruction_sets:
        notes.append("bf16: OpenVINO would take it by itself; here f32 is asked for, and its own way is a candidate")
    if host.governor not in (None, "performance"):
        notes.append(f"the governor is '{host.governor}'; for steady timings: cpupower frequency-set -g performance")
    notes += [f"{name}: {words}" for name in targets.names() if (words := targets.get(name).unproven)]
    return {
        "machine": f"{host.cpu}, {host.cores} cores, {host.memory_bytes / 2**30:.1f} GiB, {host.system}",
        "instruction_sets": list(host.instruction_sets),
        "gpus": list(host.gpus) or "none that nvidia-smi knows",
        "versions": installed,
        "targets": {
            name: {
                "builds_here": "no" if (lack := targets.get(name).why_not()) else "yes",
                "engine": targets.get(name).engine,
                "version": installed.get(found.get(targets.get(name).engine, ""), "")
                or ("" if lack else engines.get(targets.get(name).engine).facts()["version"]),  # by another wheel
                "what_mends_it": lack or "",
            }
            for name in targets.names()
        },
        "notes": notes or "nothing to say",
    }
