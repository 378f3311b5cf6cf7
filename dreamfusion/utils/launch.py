"""Reads the environment variables of torchrun, which describe a group of processes.

Container images and shells often set some of them for other purposes. Only a complete set means
that there are other processes to join. Imports no torch.
"""

import os
from typing import NamedTuple

from dreamfusion.utils.errors import UserError

REQUIRED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
VARIABLES = (*REQUIRED, "LOCAL_RANK")


class Launch(NamedTuple):
    """A group of processes. rank: of this process, from 0 to world_size - 1. local_rank: among the
    processes on this machine."""

    rank: int
    world_size: int
    local_rank: int


def launch() -> Launch | None:
    """The group of this process; None if any required variable is missing. Raises UserError if
    all are set and one is invalid."""
    if not all(os.environ.get(name) for name in REQUIRED):
        return None
    try:
        group = Launch(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))
        if not 0 <= group.rank < group.world_size or group.local_rank < 0:
            raise ValueError
    except (KeyError, ValueError):
        found = ", ".join(f"{name}={os.environ.get(name)}" for name in VARIABLES)
        raise UserError(
            f"{found} in the environment describe no group of processes; start them with torchrun, "
            "or unset these variables to train in one process"
        ) from None
    return group
