"""Muon (Jordan et al. 2024), for convolutions too, its work shared out among processes.

The momentum G of a weight matrix is replaced by the nearest matrix with orthonormal rows or
columns, so that directions which few pictures ask for move as fast as those which all ask for.
torch.optim.Muon takes two-dimensional weights only and does all the work in every process.
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
    """Steps of RMS 0.2 lr, as AdamW's are about, so that both can share a learning rate.

    params: weights of two dimensions or more; all but the first are taken as one. Under
    torch.distributed each process works out a share of the updates; gradients must be equal in
    all, and parameters and state remain so.
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
            # Those of one shape at once: on a GPU a small matrix costs its launches, no more.
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
    """Near U V^T for each of `matrices` (k, m, n) = U S V^T, by Newton-Schulz, in bfloat16 where
    there are instructions for it. A zero matrix stays one."""
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
    """Who does which piece of work, so that all are done at about the same time."""
    loads, owners = [0.0] * workers, [0] * len(work)
    for i in sorted(range(len(work)), key=lambda i: (-work[i], i)):
        owners[i] = loads.index(min(loads))
        loads[owners[i]] += work[i]
    return owners


def _work(parameter: nn.Parameter) -> float:
    rows, columns = parameter.shape[0], parameter[0].numel()
    return float(min(rows, columns) * rows * columns)
