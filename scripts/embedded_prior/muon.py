"""Muon (Jordan et al. 2024), also for convolutions, with its work distributed over processes.

The momentum G of a weight matrix is replaced by the nearest matrix with orthonormal rows or
columns, so that directions with gradients from few images are updated as fast as others.
torch.optim.Muon supports only two-dimensional weights and does all the work in every process.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dreamfusion.utils.devices import has_bfloat16

# Coefficients of the quintic: they bring singular values between 0.01 and 1 to about 1 in five
# rounds, without quite converging.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Steps have an RMS of 0.2 lr, about as with AdamW, so that both can use one learning rate.

    params: weights with two or more dimensions; all except the first are flattened. With
    torch.distributed, each process computes a share of the updates. Gradients must be equal in all
    processes; parameters and state then remain equal.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            owners = share_out([_work(p) for p in parameters], world)
            ahead = []
            for p in parameters:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead.append(p.grad.lerp(momentum, group["momentum"]).flatten(1))
            updates = [torch.zeros_like(p) for p in parameters]
            # Batch matrices of the same shape, since small matrices are bound by launches on a GPU.
            mine = [i for i, owner in enumerate(owners) if owner == rank]
            for shape in dict.fromkeys(ahead[i].shape for i in mine):
                alike = [i for i in mine if ahead[i].shape == shape]
                directions = orthogonalize(torch.stack([ahead[i] for i in alike]))
                scale = 0.2 * max(shape) ** 0.5
                for i, direction in zip(alike, directions, strict=True):
                    updates[i] = (direction * scale).to(updates[i].dtype).view_as(updates[i])
            if world > 1:
                flat = torch.cat([update.flatten() for update in updates])
                dist.all_reduce(flat)
                parts = flat.split([update.numel() for update in updates])
                updates = [part.view_as(u) for part, u in zip(parts, updates, strict=True)]
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])


def orthogonalize(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Approximate U V^T for each of `matrices` (k, m, n) = U S V^T, by Newton-Schulz iterations, in
    bfloat16 on devices with instructions for it. Zero matrices are not changed."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    if has_bfloat16(x.device):
        x = x.bfloat16()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def share_out(work: list[float], workers: int) -> list[int]:
    """Assign pieces of work to workers, so that all finish at about the same time."""
    loads, owners = [0.0] * workers, [0] * len(work)
    for i in sorted(range(len(work)), key=lambda i: (-work[i], i)):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += work[i]
    return owners


def _work(parameter: nn.Parameter) -> float:
    rows, columns = parameter.shape[0], parameter[0].numel()
    return float(min(rows, columns) * rows * columns)
