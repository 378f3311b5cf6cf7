"""What changes during a run: how far it is, and what a checkpoint keeps. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class Progress(NamedTuple):
    """How far an optimisation is.

    step: steps done. steps: the length that schedules refer to. Use: `schedule.at(*progress)`.
    """

    step: int
    steps: int


class Stateful(Protocol):
    """Something that a checkpoint keeps. Every `torch.nn.Module` is one.

    The state is a flat mapping of names to tensors, the same in all processes: reduce what depends
    on the views of one process (`utils.distributed.mean_over_processes`) before storing it.
    `load_state_dict` is also called on an object in use, to go back to a checkpoint; the tensors it
    gets belong to the caller and must be copied.
    """

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        return None
