"""Which device a run is on."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.utils.errors import UserError
from dreamfusion.utils.launch import launch


class DeviceError(UserError):
    """A device that is not here or cannot be used."""


def choose_device(name: str) -> str:
    """A device that is there: auto takes CUDA where it can; of several processes that torchrun
    started on GPUs each has its own. A GPU becomes the current one. Raises DeviceError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    group = launch()
    if kind == "cuda" and group is not None and group.local_rank is not None:
        name = f"cuda:{group.local_rank}"
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[kind]:
        raise DeviceError(f"there is no {kind} device here; use --device cpu")
    several = group.world_size if group is not None else 1
    # All would take the first one. A launcher may show each process a GPU of its own.
    if name == "cuda" and several > 1 and torch.cuda.device_count() > 1:
        raise DeviceError(
            f"LOCAL_RANK is not set: it says which GPU each of {several} processes takes; start "
            "them with torchrun"
        )
    try:
        torch.empty(0, device=name)
        if kind == "cuda" and torch.device(name).index is not None:
            # What is not told where to go, and accelerators that are tried, go to the run's GPU.
            torch.cuda.set_device(name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"device {name} cannot be used: {reason}") from None
    return name


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for bfloat16; one that is no CPU is taken to. A CPU without
    imitates it: with AVX2 alone, a step of a U-Net took 17 times as long as in float32."""
    if torch.device(device).type != "cpu":
        return True
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return probe is not None and bool(probe())


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor`, or a copy on `device`. From a CPU to an NVIDIA GPU without waiting: from pinned
    memory, which torch keeps until the copy is done. A plain copy waits for all work before it."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
