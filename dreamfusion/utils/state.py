"""Progress of a run, and the interface of objects with state. Imports no torch."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class Progress(NamedTuple):
    """Progress of an optimisation.

    step: steps done. steps: the number of steps that schedules span. Use: `schedule.at(*progress)`.
    """

    step: int
    steps: int


class Stateful(Protocol):
    """An object whose state is saved in checkpoints, such as any `torch.nn.Module`.

    The state is a flat mapping of names to tensors, identical in all processes: reduce values that
    depend on the local views (`utils.distributed.mean_over_processes`) before storing them.
    `load_state_dict` is also called on an object in use, to return to a checkpoint. The tensors
    passed to it belong to the caller and must be copied.
    """

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        return None
