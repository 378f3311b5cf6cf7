"""An engine that runs attempts as processes on this machine."""

import os
import signal
import subprocess
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.batch.attempt import STALE_SECONDS, environment, start_attempt
from dreamfusion.batch.engines import Ending, ResourceRequest
from dreamfusion.batch.jobs import JobFolder
from dreamfusion.batch.prompts import BatchError
from dreamfusion.utils.machine import usable_cores, usable_memory

GIB = 2**30


class LocalEngine:
    """Runs as many processes in parallel as cores, free memory and GPUs permit.

    at_once: overrides that number without a check. Raises BatchError if no attempt fits.
    """

    name = "local"

    def __init__(
        self,
        need: ResourceRequest,
        *,
        at_once: int | None = None,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self._need, self._stale_seconds = need, stale_seconds
        self._gpus = visible_gpus() if need.gpu_memory else []
        self.slots = at_once or count_slots(need, self._gpus)
        # The GPU of each process; "" without GPUs.
        self._children: dict[subprocess.Popen[bytes], str] = {}

    def has_room(self) -> bool:
        return len(self._children) < self.slots

    def start(self, folder: JobFolder, number: int) -> Hashable:
        env, gpu = environment(self._need.threads), ""
        if self._gpus:
            used = list(self._children.values())
            free = {gpu.name: gpu.slots(self._need) - used.count(gpu.name) for gpu in self._gpus}
            gpu = env["CUDA_VISIBLE_DEVICES"] = max(free, key=free.__getitem__)
        # In its own session: Ctrl-C goes to the driver, which forwards it.
        child = start_attempt(folder, number, self._stale_seconds, env=env, start_new_session=True)
        self._children[child] = gpu
        return child

    def ended(self) -> list[tuple[Hashable, Ending]]:
        ended = [child for child in self._children if child.poll() is not None]
        for child in ended:
            del self._children[child]
        return [(child, Ending(child.returncode)) for child in ended]

    def drop(self, ticket: Any) -> None:
        """Kill a process, even a frozen one."""
        ticket.kill()
        ticket.wait()
        del self._children[ticket]

    def stop(self) -> None:
        """Send SIGTERM to all processes."""
        for child in self._children:
            child.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Kill the remaining processes."""
        for ticket in list(self._children):
            self.drop(ticket)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU. name: for CUDA_VISIBLE_DEVICES. free: bytes of memory, None if unknown."""

    name: str
    free: int | None

    def slots(self, need: ResourceRequest) -> int:
        """Number of attempts that fit in parallel, at least one: each run checks the memory."""
        if self.free is None or not need.gpu_memory:
            return 1
        return max(1, self.free // need.gpu_memory)


def count_slots(need: ResourceRequest, gpus: Sequence[Gpu]) -> int:
    """Number of attempts that fit on this machine in parallel. Raises BatchError if none fits."""
    memory = usable_memory()
    free = need.memory * usable_cores() if memory is None else memory.free
    if free < need.memory or (need.gpu_memory and not gpus):
        gpu = " and an NVIDIA GPU" if need.gpu_memory else ""
        raise BatchError(
            f"a job needs about {need.memory / GIB:.1f} GiB of memory{gpu}; {free / GIB:.1f} GiB "
            f"and {len(gpus)} GPUs are free; use --device cpu, or --jobs 1 to try anyway"
        )
    bounds = [max(1, usable_cores() // need.threads), free // need.memory]
    if need.gpu_memory:
        bounds.append(sum(gpu.slots(need) for gpu in gpus))
    return min(bounds)


def visible_gpus() -> list[Gpu]:
    """The NVIDIA GPUs that are visible to a run, without loading torch."""
    found, visible = gpu_memory(), os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()]
    elif found:
        names = [uuid for _, uuid in found]
    else:  # without nvidia-smi
        names = [str(i) for i, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]
    free = {
        name: free
        for name in names
        for (index, uuid), free in found.items()
        if name == index or uuid.startswith(name)
    }
    return [Gpu(name, free.get(name)) for name in names]


def gpu_memory() -> dict[tuple[str, str], int]:
    """Free bytes of all NVIDIA GPUs of this machine, by (index, UUID). Empty if nvidia-smi does not
    report them."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
        return {(index, uuid): int(mib) * 2**20 for index, uuid, mib in rows}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
