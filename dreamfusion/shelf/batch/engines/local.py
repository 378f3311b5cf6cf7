"""This machine as an engine: a pool of processes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Hashable
from pathlib import Path

from dreamfusion.shelf.batch.attempt import STALE_SECONDS, command_of, environment
from dreamfusion.shelf.batch.engines import Ending, Need
from dreamfusion.shelf.batch.prompts import BatchError

GIB = 2**30


class LocalEngine:
    """As many processes at once as cores, free memory and GPUs allow.

    at_once: another number, on the caller's responsibility. Raises BatchError where not even one
    attempt fits.
    """

    name = "local"

    def __init__(
        self, need: Need, *, at_once: int | None = None, stale_seconds: float = STALE_SECONDS
    ) -> None:
        self._need, self._stale_seconds = need, stale_seconds
        self._gpus = visible_gpus() if need.gpus else []
        self.places = at_once or places_here(need, gpus=len(self._gpus))
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._gpu_of: dict[int, str] = {}
        self._tickets = itertools.count()

    def has_room(self) -> bool:
        """Whether a place is free."""
        return len(self._children) < self.places

    def start(self, folder: Path, number: int) -> int:
        """Start the process of an attempt."""
        ticket, env = next(self._tickets), environment(self._need.threads)
        if self._gpus:
            taken = list(self._gpu_of.values())
            self._gpu_of[ticket] = min(self._gpus, key=taken.count)
            env["CUDA_VISIBLE_DEVICES"] = self._gpu_of[ticket]
        self._children[ticket] = subprocess.Popen(
            command_of(folder, number, os.getpid(), self._stale_seconds),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the driver, which tells each
        )
        return ticket

    def ended(self) -> list[tuple[Hashable, Ending]]:
        """Those whose process is gone."""
        codes = {ticket: child.poll() for ticket, child in self._children.items()}
        gone = [ticket for ticket, code in codes.items() if code is not None]
        for ticket in gone:
            self._forget(ticket)
        return [(ticket, Ending(codes[ticket])) for ticket in gone]

    def drop(self, ticket: Hashable) -> None:
        """Kill a process, which also ends one that is frozen."""
        assert isinstance(ticket, int)
        child = self._children[ticket]
        child.kill()
        child.wait()
        self._forget(ticket)

    def stop(self) -> None:
        """Send every process the polite signal."""
        for child in self._children.values():
            child.send_signal(signal.SIGTERM)

    def close(self) -> None:
        """Kill what is left."""
        for ticket in list(self._children):
            self.drop(ticket)

    def _forget(self, ticket: int) -> None:
        del self._children[ticket]
        self._gpu_of.pop(ticket, None)


def places_here(need: Need, *, gpus: int) -> int:
    """How many attempts fit on this machine at once. Raises BatchError if none does."""
    cores, free = usable_cores(), free_memory()
    if free is not None and free < need.memory:
        raise BatchError(
            f"a job needs about {need.memory / GIB:.1f} GiB of memory, {free / GIB:.1f} GiB are "
            "free; --jobs 1 tries all the same"
        )
    bounds = [max(1, cores // need.threads)]
    if free is not None:
        bounds.append(free // need.memory)
    if need.gpus:
        bounds.append(gpus // need.gpus)
    return min(bounds)


def usable_cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory() -> int | None:
    """Bytes that a new process could have, where the system tells it: Linux."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    kib = next(line.split()[1] for line in text.splitlines() if line.startswith("MemAvailable"))
    return int(kib) * 1024


def visible_gpus() -> list[str]:
    """The numbers of the NVIDIA GPUs that a run would see, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return [str(i) for i in range(len(list(Path("/proc/driver/nvidia/gpus").glob("*"))))]
