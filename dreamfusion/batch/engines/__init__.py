"""What gives attempts a place to run. An engine knows nothing of jobs: the folder is the truth.

To follow: Slurm by submitit, behind the same interface.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class ResourceRequest:
    """What an attempt takes. memory: bytes of the machine's. gpu_memory: bytes of one GPU's, which
    others may share; 0: it needs none."""

    threads: int
    memory: int
    gpu_memory: int


@dataclass(frozen=True)
class Ending:
    """The end of an attempt. code: the exit status, negative for a signal; None where the place was
    lost together with the process. reason: why it was lost."""

    code: int | None
    reason: str = ""


class Engine(Protocol):
    """Gives out places."""

    name: str

    @property
    def slots(self) -> int:
        """How many attempts can run at once."""

    def has_room(self) -> bool:
        """Whether another attempt may be handed over now."""

    def start(self, folder: Path, number: int) -> Hashable:
        """Make an attempt at the job in a folder as soon as there is a place; a ticket for it."""

    def ended(self) -> list[tuple[Hashable, Ending]]:
        """The attempts that have ended since the last time; never waits for long."""

    def drop(self, ticket: Hashable) -> None:
        """Give up on an attempt that does not answer. It will not be among those that ended."""

    def stop(self) -> None:
        """Ask every attempt to write its checkpoint and end; those that wait do not begin."""

    def close(self) -> None:
        """Give everything back, at once."""
