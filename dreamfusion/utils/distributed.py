"""Training with several processes, each with one GPU and a share of the views.

    torchrun --nproc-per-node 2 -m dreamfusion train "a corgi" --set camera.views=4

All processes have the same scene and sample the same cameras. Gradients are averaged, so that a
step equals that of a single process. Only process 0 prints and writes files. Without torchrun,
these functions behave as for a single process.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dreamfusion.utils.errors import UserError, one_line
from dreamfusion.utils.launch import launch

T = TypeVar("T")


def processes() -> int:
    """The number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is process 0, which prints and writes files."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join torchrun's process group, if any, during the block. Raises UserError if that fails."""
    group = launch()
    if group is None or group.world_size == 1:
        yield
        return
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    # Torch raises RuntimeError for network errors.
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"process {group.rank} of {group.world_size} cannot join the others "
            f"({one_line(error, 160)}); start all with torchrun, or unset WORLD_SIZE to train in "
            "one process"
        ) from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(n: int, group_size: int = 1) -> slice:
    """The slice of n views for this process. group_size: views per group. Raises UserError if the
    groups cannot be divided equally."""
    count = processes()
    if n % (count * group_size):
        groups = f" in groups of {group_size}" if group_size > 1 else ""
        raise UserError(
            f"{n} views cannot be split over {count} processes{groups}; set camera.views to a "
            f"multiple of {count * group_size}"
        )
    size, rank = n // count, dist.get_rank() if dist.is_initialized() else 0
    return slice(rank * size, (rank + 1) * size)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes.

    A missing gradient counts as zero if another process has one; otherwise it stays None.
    """
    if not dist.is_initialized():
        return
    parameters = list(parameters)
    if not parameters:
        return
    device = parameters[0].device
    exists = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
    for parameter, share in zip(parameters, mean_over_processes(exists).tolist(), strict=True):
        if share > 0:
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = mean_over_processes(own)


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a tensor over all processes, for state of an estimator or a scene that depends on
    the local views."""
    if not dist.is_initialized():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / processes()


def gather_over_processes(value: Tensor) -> Tensor:
    """Concatenate the rows (n, ...) of the local views of all processes, in order."""
    if not dist.is_initialized():
        return value
    parts = [torch.empty_like(value) for _ in range(processes())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def any_process(flag: bool, device: str) -> bool:
    """Whether a flag is true in any process. All processes get the same result."""
    return bool(mean_over_processes(torch.tensor(float(flag), device=device)))


def from_first(value: T) -> T:
    """Broadcast `value` from process 0. The other processes wait for it."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
