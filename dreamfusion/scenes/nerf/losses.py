"""Regularisers of a radiance field."""

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.scenes.nerf.field import Field
from dreamfusion.scenes.nerf.renderer import RenderOutput
from dreamfusion.utils.devices import send

SMOOTHED_RAYS = 4  # smoothness is computed on one ray in so many


def sparsity_loss(density: Float[Tensor, " n"], *, n_rays: int) -> Float[Tensor, ""]:
    """Sum of log(1 + 2 density^2) over samples, per ray; the Cauchy loss of SNeRG (Hedman et al.,
    eq. 9). Unlike `opacity_loss` it acts on samples, not on pixels.

    density: of the samples, non-negative. The sum is divided by `n_rays`.
    """
    return torch.log1p(2.0 * density.square()).sum() / n_rays


def smoothness_loss(
    weights: Float[Tensor, " n"],
    normals: Float[Tensor, "n 3"],
    nearby: Float[Tensor, "n 3"],
    *,
    n_rays: float,
) -> Float[Tensor, ""]:
    """Penalises differences of neighbouring normals: sum of w |n - n'|^2, per ray.

    weights: of the samples, treated as constants; normals, nearby: unit, at the samples and at
    points close to them. The sum is divided by `n_rays`. At most 4 for an opaque image.
    """
    return (weights.detach() * (normals - nearby).square().sum(dim=-1)).sum() / n_rays


def orientation_loss(
    weights: Float[Tensor, " n"],
    normals: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    *,
    n_rays: int,
) -> Float[Tensor, ""]:
    """Penalises visible normals that face away from the camera: sum of w max(0, n . d)^2, per ray
    (Ref-NeRF, eq. 11).

    normals, directions (of view, away from the camera): unit. The sum is divided by `n_rays`.
    Weights are treated as constants: the loss should turn normals, not reduce opacity.
    """
    away = (normals * directions).sum(dim=-1).clamp(min=0.0)
    return (weights.detach() * away.square()).sum() / n_rays


def sampled_smoothness(
    field: Field, out: RenderOutput, generator: torch.Generator
) -> Float[Tensor, ""]:
    """`smoothness_loss` on a part of the rays, which costs less and has the same expectation. All
    samples are compared with points in the same random direction."""
    surface = out.surface
    assert surface is not None
    first = torch.randint(SMOOTHED_RAYS, (), generator=generator).item()
    smoothed = out.samples.ray_index[surface.index] % SMOOTHED_RAYS == first
    picked = smoothed.nonzero()[:, 0]
    shift = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
    points = out.samples.positions[surface.index[picked]]
    shift = send(shift.to(points.dtype), points.device)
    nearby = field.normals(points + 2 * field.settings.normal_epsilon * shift)
    weights, normals = (v.index_select(0, picked) for v in (surface.weights, surface.normals))
    return smoothness_loss(weights, normals, nearby, n_rays=out.opacity.numel() / SMOOTHED_RAYS)
