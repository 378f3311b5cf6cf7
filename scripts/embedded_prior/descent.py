"""Optimiser steps with gradients averaged over all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def average_gradients(models: nn.Module, world: int) -> None:
    """Average gradients over all processes, in one all-reduce."""
    gradients = [p.grad for p in models.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    parts = (flat / world).split([g.numel() for g in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.reshape(gradient.shape))


def descend(
    loss: Tensor,
    models: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    *,
    rate: float,
    world: int,
) -> None:
    """Take an optimiser step for `loss`, with clipped gradients averaged over all processes."""
    models.zero_grad(set_to_none=True)
    loss.backward()
    if world > 1:
        average_gradients(models, world)
    nn.utils.clip_grad_norm_(models.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()


def learning_rate(step: int, steps: int, warmup: int, decay: int, peak: float) -> float:
    return peak * min(1.0, (step + 1) / warmup, max(steps - step, 1) / max(decay, 1))
