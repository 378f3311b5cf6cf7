"""Reports the cores and memory available to this process. Imports no torch.

In a container, the kernel reports the numbers of the host. The container's limits are in the files
of control groups, version 2 or 1; the limits of all parent groups apply, too.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")


@dataclass(frozen=True)
class Memory:
    """Bytes of memory. free: available to a new process. total: available to all processes."""

    free: int
    total: int


def usable_cores(root: Path = ROOT) -> int:
    """Number of cores that this process may use by its affinity and the container's quota, at
    least 1. root: root of the file system, for tests."""
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, min([cores, *(int(quota) for quota in _cpu_quotas(root))]))


def usable_memory(root: Path = ROOT) -> Memory | None:
    """Memory of the machine, or of the container if it has less. None except on Linux."""
    try:
        text = (root / "proc/meminfo").read_text(encoding="ascii")
        rows = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        free, total = (int(rows[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))
    except (OSError, KeyError, ValueError):
        return None
    for limit, used in _memory_limits(root):
        free, total = min(free, max(0, limit - used)), min(total, limit)
    return Memory(free, total)


def peak_memory() -> int | None:
    """Peak memory of this process in bytes; None if the system does not report it."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of the groups of this process."""
    # Without a limit, they are "max 100000" (version 2) or -1 (version 1).
    texts = [_read(folder / "cpu.max") for folder in _groups(root, "")]
    for folder in _groups(root, "cpu"):
        texts.append(f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}")
    for quota, _, period in (text.partition(" ") for text in texts):
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and usage, in bytes, of the groups of this process that have a limit. Usage excludes
    cached files that the kernel can drop."""
    for controller, limit_file, use_file, droppable in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in _groups(root, controller):
            limit, used = _read(folder / limit_file), _read(folder / use_file)
            if not (limit.isdigit() and used.isdigit()):
                continue
            stat = dict(row.split() for row in _read(folder / "memory.stat").splitlines())
            yield int(limit), int(used) - int(stat.get(droppable, 0))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process' group and of its parents. controller: "" for version 2, which
    has one tree. In a container, the innermost group is often mounted as the root."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if controller not in names.split(","):
            continue
        top = root / "sys/fs/cgroup" / names
        if controller and not top.is_dir():
            top = root / "sys/fs/cgroup" / controller
        folder = top / path.lstrip("/")
        yield from (group for group in (folder, *folder.parents) if group.is_relative_to(top))


def _read(path: Path) -> str:
    """The content of a file of the kernel; "" if it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
