"""Chooses the device of a run."""

import torch
from torch import Tensor

from dreamfusion.utils.errors import UserError
from dreamfusion.utils.launch import launch


def choose_device(name: str) -> str:
    """Choose an available device; auto prefers CUDA. Each process of torchrun gets a separate GPU,
    which becomes its current device. Raises UserError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    group = launch()
    if kind == "cuda" and group is not None:
        name = f"cuda:{group.local_rank}"
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, True):
        raise UserError(f"no {kind} device is available; use --device cpu")
    try:
        torch.empty(0, device=name)
        if kind == "cuda" and torch.device(name).index is not None:
            # Tensors without an explicit device and accelerator tests use the current GPU.
            torch.cuda.set_device(name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name} cannot be used: {reason}") from None
    return name


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether a device has instructions for bfloat16; assumed for all except CPUs. Other CPUs
    emulate it: with AVX2 only, a step of a U-Net took 17 times as long as in float32."""
    if torch.device(device).type != "cpu":
        return True
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return probe is not None and bool(probe())


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Move a tensor to a device. Copies from the CPU to an NVIDIA GPU use pinned memory and do not
    block, whereas `Tensor.to` would wait for all queued work."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
