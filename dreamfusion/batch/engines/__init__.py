"""The interface of engines, which run the processes of attempts. Engines do not read jobs."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from dreamfusion.batch.jobs import JobFolder


@dataclass(frozen=True)
class ResourceRequest:
    """Resources that an attempt needs. memory: bytes of main memory. gpu_memory: bytes on one GPU,
    which attempts may share; 0 for no GPU."""

    threads: int
    memory: int
    gpu_memory: int


@dataclass(frozen=True)
class Ending:
    """The end of an attempt. code: the exit status, negative for a signal; None if the process was
    lost with its machine. reason: of the loss."""

    code: int | None
    reason: str = ""


class Engine(Protocol):
    """Runs each attempt in a separate process."""

    name: str

    @property
    def slots(self) -> int:
        """Number of attempts that can run in parallel."""

    def has_room(self) -> bool:
        """Whether `start` accepts another attempt now."""

    def start(self, folder: JobFolder, number: int) -> Hashable:
        """Run an attempt at the job in a folder when a slot is free. Returns its ticket."""

    def ended(self) -> list[tuple[Hashable, Ending]]:
        """The attempts that have ended since the last call. Does not wait."""

    def drop(self, ticket: Any) -> None:
        """Abandon an attempt that does not respond. `ended` will not return it."""

    def stop(self) -> None:
        """Make all attempts write a checkpoint and exit. Queued attempts do not start."""

    def close(self) -> None:
        """Release all resources without waiting for attempts."""
