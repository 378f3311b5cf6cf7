"""Regularisers of the scene. Each returns a scalar tensor, to be weighted by the caller."""

from __future__ import annotations

import torch
from torch import Tensor


def opacity_loss(opacity: Tensor) -> Tensor:
    """Mean of sqrt(opacity^2 + 0.01), which empties space that nothing needs (DreamFusion, A.3).

    opacity: any shape, in [0, 1]. Between 0.1 (empty) and 1.005.
    """
    return (opacity.square() + 0.01).sqrt().mean()


def entropy_loss(opacity: Tensor) -> Tensor:
    """Mean binary entropy of opacity, in bits: 0 where each pixel is empty or solid, 1 at one half.

    opacity: any shape, in [0, 1]; held 1e-5 away from both ends, where the slope is infinite.
    """
    p = opacity.clamp(1e-5, 1.0 - 1e-5)
    return -(p * torch.log2(p) + (1.0 - p) * torch.log2(1.0 - p)).mean()


def sparsity_loss(density: Tensor, *, n_rays: int) -> Tensor:
    """Sum of log(1 + 2 density^2) over samples, per ray; the Cauchy loss of SNeRG (Hedman et al.,
    eq. 9). Unlike `opacity_loss` it also thins what nobody sees.

    density: (m,) of the samples, non-negative. The sum is divided by `n_rays`.
    """
    return torch.log1p(2.0 * density.square()).sum() / n_rays


def smoothness_loss(weights: Tensor, normals: Tensor, nearby: Tensor, *, n_rays: float) -> Tensor:
    """Neighbouring normals must agree: sum of w |n - n'|^2, per ray.

    weights: (k,) of the samples, constants here; normals, nearby: (k, 3), unit, at the samples and
    at points close to them. The sum is divided by `n_rays`. At most 4 for an opaque picture.
    """
    return (weights.detach() * (normals - nearby).square().sum(dim=-1)).sum() / n_rays


def orientation_loss(
    weights: Tensor, normals: Tensor, directions: Tensor, *, n_rays: int
) -> Tensor:
    """Visible normals must not face away: sum of w max(0, n . d)^2, per ray (Ref-NeRF, eq. 11).

    weights: (k,) of the samples; normals, directions (of view, away from the camera): (k, 3),
    unit. The sum is divided by `n_rays`. Weights are constants here: the loss is to turn
    normals, not to make what is seen transparent.
    """
    away = (normals * directions).sum(dim=-1).clamp(min=0.0)
    return (weights.detach() * away.square()).sum() / n_rays
