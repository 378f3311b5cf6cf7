"""Reads the environment variables of torchrun or another launcher, which describe a process group.

Container images and shells often set some of them for other purposes. Only a complete set means
that there are other processes to join. Imports no torch.
"""

import os
from dataclasses import dataclass

from dreamfusion.utils.errors import UserError

REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
VARIABLES = (*REQUIRED, "LOCAL_RANK")


class LaunchError(UserError):
    """A group of processes is described incorrectly or cannot be joined."""


@dataclass(frozen=True)
class Launch:
    """A group of processes. rank: of this process, from 0 to world_size - 1. local_rank: among the
    processes on this machine; None if the launcher does not set it."""

    rank: int
    world_size: int
    local_rank: int | None


def launch() -> Launch | None:
    """The group of this process; None if any required variable is missing. Raises LaunchError if
    all are set and one is invalid."""
    if any(not os.environ.get(name) for name in REQUIRED):
        return None
    world_size = _number("WORLD_SIZE", 1)
    rank = _number("RANK", 0, world_size - 1)
    _number("MASTER_PORT", 1, 65535)
    local_rank = _number("LOCAL_RANK", 0) if os.environ.get("LOCAL_RANK") else None
    return Launch(rank, world_size, local_rank)


def leftovers() -> str | None:
    """The text of a warning if only some of the variables are set, or None."""
    found = [name for name in VARIABLES if name in os.environ]
    missing = [name for name in REQUIRED if not os.environ.get(name)]
    # An address alone, or a single process, needs no group.
    suspicious = {"RANK", "WORLD_SIZE", "LOCAL_RANK"} & set(found)
    if not suspicious or not missing or os.environ.get("WORLD_SIZE") == "1":
        return None
    values = ", ".join(f"{name}={os.environ[name]}" for name in found)
    missing_names = ", ".join(missing)
    return (
        f"ignoring {values} from the environment: {missing_names} not set; training in one process"
    )


def _number(name: str, least: int, most: int | None = None) -> int:
    text = os.environ[name]
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"from {least} to {most}"
        raise LaunchError(
            f"{name}={text} in the environment must be a whole number {bounds}; start several "
            f"processes with torchrun, or unset {', '.join(VARIABLES)} to train in one"
        )
    return value
