"""Several processes with one GPU each; every process renders and scores its share of the views.

    torchrun --nproc-per-node 2 -m dreamfusion train "a corgi" --set camera.views=4

All processes have the same scene and draw the same cameras. Gradients are averaged, so that a step
equals that of a single process. Only process 0 prints and writes. Without torchrun, all functions
here do nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from dreamfusion.utils.errors import RunWarning, UserError, one_line
from dreamfusion.utils.launch import LaunchError, launch, leftovers

T = TypeVar("T")


def processes() -> int:
    """The number of processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is process 0, which prints and writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the process group of torchrun, if there is one, during the block.

    Raises LaunchError if that fails. Incomplete variables of another launcher are ignored with a
    warning.
    """
    group = launch()
    if (said := leftovers()) is not None:
        warnings.warn(RunWarning(said), stacklevel=2)
    if group is None or group.world_size == 1:
        yield
        return
    try:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    # Torch reports network errors as RuntimeErrors.
    except (RuntimeError, ValueError, OSError) as error:
        raise LaunchError(
            f"process {group.rank} of {group.world_size} cannot join the others "
            f"({one_line(error, 160)}); start all with torchrun, or unset WORLD_SIZE to train in "
            "one process"
        ) from None
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(n: int, group_size: int = 1) -> slice:
    """The slice of n views that belongs to this process. group_size: views per group.

    Raises UserError if whole groups cannot be divided equally.
    """
    count = processes()
    if n % group_size:
        raise UserError(
            f"this prior needs groups of {group_size} views, and {n} is not a multiple: set "
            f"camera.views to a multiple of {group_size * count}"
        )
    if n % (count * group_size):
        raise UserError(
            f"{n} views cannot be split over {count} processes"
            + (f" in groups of {group_size}" if group_size > 1 else "")
            + f"; set camera.views to a multiple of {count * group_size}"
        )
    if not dist.is_initialized():
        return slice(0, n)
    size = n // count
    return slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """All-reduce gradients: the mean of each over all processes.

    If some processes have no gradient for a parameter, theirs counts as zero; if none has one, it
    stays None.
    """
    if not dist.is_initialized():
        return
    parameters = list(parameters)
    if not parameters:
        return
    device = parameters[0].device
    have = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
    dist.all_reduce(have, op=dist.ReduceOp.MAX)
    for parameter, any_has in zip(parameters, have.tolist(), strict=True):
        if not any_has:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        dist.all_reduce(parameter.grad)
        parameter.grad /= processes()


def mean_over_processes(value: Tensor) -> Tensor:
    """All-reduce: the mean of a tensor over all processes, for state of an estimator or a scene
    that depends on the local views."""
    if not dist.is_initialized():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / processes()


def gather_over_processes(value: Tensor) -> Tensor:
    """All-gather: concatenates the rows (n, ...) of each process' views to those of all views."""
    if not dist.is_initialized():
        return value
    parts = [torch.empty_like(value) for _ in range(processes())]
    dist.all_gather(parts, value.contiguous())
    return torch.cat(parts)


def any_process(flag: bool, device: str) -> bool:
    """All-reduce a flag: whether it is true in any process, so that all processes agree."""
    if not dist.is_initialized():
        return flag
    told = torch.tensor(float(flag), device=device)
    dist.all_reduce(told, op=dist.ReduceOp.MAX)
    return bool(told)


def from_first(value: T) -> T:
    """Broadcast `value` of process 0; the others wait for it."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
