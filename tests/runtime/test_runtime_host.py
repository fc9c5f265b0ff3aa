import json
import os
import subprocess
import sys

import pytest

from runtime import host

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Some Processor @ 2.10GHz
flags\t\t: fpu sse avx2 fma avx512f avx512_vnni

processor\t: 1
model name\t: Some Processor @ 2.10GHz
flags\t\t: fpu sse avx2 fma avx512f avx512_vnni
"""
PI = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Revision\t: c04170
Serial\t\t: 0000000000000000
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


@pytest.fixture
def files(monkeypatch):
    """Stands for the files of /proc and /sys; what is not in it is not there."""
    found: dict[str, str] = {}
    monkeypatch.setattr(host, "_read", lambda path: found.get(str(path)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    return found


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"),
    reason="only Linux narrows a process to some cores",
)
def test_cores_respect_affinity():
    code = """
import os
from runtime.host import cores
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(cores())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 16), ("150000 100000", 2), ("200000 100000", 2), ("50000 100000", 1), ("9900000 100000", 16)],
)
def test_cores_respect_the_quota_of_a_container(files, quota, cores):
    files["/proc/self/cgroup"] = "0::/docker/abc"
    files["/sys/fs/cgroup/docker/abc/cpu.max"] = quota
    assert host.cores() == cores


def test_the_tightest_quota_on_the_way_to_the_root_counts(files):
    files["/proc/self/cgroup"] = "0::/a/b"
    files["/sys/fs/cgroup/a/b/cpu.max"] = "800000 100000"
    files["/sys/fs/cgroup/a/cpu.max"] = "300000 100000"
    files["/sys/fs/cgroup/cpu.max"] = "max 100000"
    assert host.cores() == 3


def test_a_container_sees_its_quota_at_the_root_of_its_own_mount(files):
    files["/proc/self/cgroup"] = "0::/docker/named-as-on-the-host"
    files["/sys/fs/cgroup/cpu.max"] = "400000 100000"
    assert host.cores() == 4


def test_a_quota_counts_even_where_the_own_group_cannot_be_read(files):
    files["/sys/fs/cgroup/cpu.max"] = "400000 100000"
    assert host.cores() == 4


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("250000", 3), ("10000", 1)])
def test_cores_respect_the_quota_of_cgroup_version_1(files, quota, cores):
    files["/proc/self/cgroup"] = "4:memory:/m\n2:cpu,cpuacct:/docker/abc"
    files["/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us"] = quota
    files["/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us"] = "100000"
    assert host.cores() == cores


@pytest.mark.parametrize(
    ("place", "limit", "memory"),
    [
        ("/sys/fs/cgroup/a/memory.max", "1048576", 1048576),
        ("/sys/fs/cgroup/a/memory.max", "max", 2048 * 1024),
        ("/sys/fs/cgroup/a/memory.max", "9223372036854771712", 2048 * 1024),
        ("/sys/fs/cgroup/memory/b/memory.limit_in_bytes", "524288", 524288),
    ],
)
def test_memory_is_what_a_container_leaves(files, place, limit, memory):
    files["/proc/meminfo"] = "MemTotal:       2048 kB\nMemFree:        1 kB"
    files["/proc/self/cgroup"] = "4:memory:/b\n0::/a"
    files[place] = limit
    assert host.facts().memory_bytes == memory


def test_the_facts_of_an_x86_processor(files):
    files["/proc/cpuinfo"] = X86
    found = host.facts()
    assert found.cpu == "Some Processor @ 2.10GHz"
    assert found.instruction_sets == ("avx2", "fma", "avx512f", "avx512_vnni")


def test_the_facts_of_an_arm_board(files):
    files["/proc/cpuinfo"] = PI
    assert host.facts().instruction_sets == ("asimd", "asimddp")


def test_the_name_of_an_arm_board_stands_in_the_last_block(files):
    files["/proc/cpuinfo"] = PI
    assert host.facts().cpu == "Raspberry Pi 5 Model B Rev 1.0"


def test_a_system_without_proc_still_has_a_processor(files):
    found = host.facts()
    assert found.cpu
    assert found.instruction_sets == ()
    assert (found.memory_bytes, found.governor) == (0, None)


def test_the_facts_of_this_machine_are_json():
    found = host.facts()
    assert found.cores >= 1
    assert found.memory_bytes > 2**20
    assert set(found.instruction_sets) <= set(host.INSTRUCTION_SETS)
    assert json.loads(json.dumps(found.to_json()))["cpu"] == found.cpu


def test_versions_leave_out_what_is_not_installed():
    import numpy

    assert host.versions(["numpy", "no-such-distribution"]) == {"numpy": numpy.__version__}


@pytest.mark.parametrize(
    ("script", "gpus"),
    [
        ("echo 'A 100, 550.1, 40960 MiB'; echo; echo 'Orin, 540.2, 7000 MiB'", ("A 100, 550.1, 40960 MiB",
                                                                                  "Orin, 540.2, 7000 MiB")),
        ("echo 'no driver'; exit 9", ()),
        (None, ()),
    ],
)  # fmt: skip
def test_gpus_are_what_the_driver_says(tmp_path, monkeypatch, script, gpus):
    if script:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert host.facts().gpus == gpus
