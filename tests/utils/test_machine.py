"""Limits of a container, read from files in the kernel's format."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from dreamfusion.utils.machine import Memory, peak_memory, usable_cores, usable_memory

GIB = 2**30
HOST = f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {50 * GIB // 1024} kB\n"


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Writes files of a system with 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)

    def write(files):
        for name, content in {"proc/meminfo": HOST, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path

    return write


def test_without_limits_the_machines_resources_are_reported(system):
    root = system({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.procs": "1\n"})
    assert usable_cores(root) == 64
    assert usable_memory(root) == Memory(50 * GIB, 64 * GIB)


def test_limits_of_version_2(system):
    root = system({
        "proc/self/cgroup": "0::/\n",
        "sys/fs/cgroup/cpu.max": "250000 100000\n",
        "sys/fs/cgroup/memory.max": f"{4 * GIB}\n",
        "sys/fs/cgroup/memory.current": f"{3 * GIB}\n",
        "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {GIB}\n",
    })  # fmt: skip
    assert usable_cores(root) == 2
    assert usable_memory(root) == Memory(2 * GIB, 4 * GIB)


def test_limits_of_parent_groups_apply(system):
    group = "sys/fs/cgroup/kubepods/pod1"
    root = system({
        "proc/self/cgroup": "0::/kubepods/pod1/container\n",
        f"{group}/container/cpu.max": "max 100000\n",
        f"{group}/container/memory.max": "max\n",
        f"{group}/container/memory.current": "1\n",
        f"{group}/cpu.max": "50000 100000\n",
        f"{group}/memory.max": f"{2 * GIB}\n",
        f"{group}/memory.current": f"{5 * GIB}\n",
    })  # fmt: skip
    assert usable_cores(root) == 1  # half a core
    assert usable_memory(root) == Memory(0, 2 * GIB)


@pytest.mark.parametrize("path", ["/", "/docker/abc"])  # the total of the host
def test_limits_of_version_1(system, path):
    root = system({
        "proc/self/cgroup": f"4:memory:{path}\n3:cpu,cpuacct:{path}\n0::/\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{8 * GIB}\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{2 * GIB}\n",
        "sys/fs/cgroup/memory/memory.stat": f"cache 7\ntotal_inactive_file {GIB}\n",
    })  # fmt: skip
    assert usable_cores(root) == 3
    assert usable_memory(root) == Memory(7 * GIB, 8 * GIB)


def test_no_limit_of_version_1(system):
    root = system({
        "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5\n",
    })  # fmt: skip
    assert usable_cores(root) == 64
    assert usable_memory(root) == Memory(50 * GIB, 64 * GIB)


def test_affinity_is_respected(system, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert usable_cores(system({})) == 1


def test_missing_system_files_give_none(tmp_path):
    assert usable_memory(tmp_path) is None
    assert usable_cores(tmp_path) >= 1


def test_this_machine():
    memory = usable_memory()
    assert memory is None or 0 <= memory.free <= memory.total
    assert peak_memory() is None or peak_memory() > 2**20


def test_no_module_imports_unix_only_modules_at_load_time():
    code = """
import importlib, pkgutil, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None  # an import of it fails
import dreamfusion.batch as package
for found in pkgutil.iter_modules(package.__path__, "dreamfusion.batch."):
    importlib.import_module(found.name)
import dreamfusion.batch.engines.local, dreamfusion.cli.batch, dreamfusion.cli.attempt
import dreamfusion.utils.machine, dreamfusion.runs.folder
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
