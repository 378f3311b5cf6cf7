"""Volume rendering of packed samples (Max 1995; Mildenhall et al. 2020, eq. 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .accelerators import compositing_backend
from .sampling import Samples, SamplingBackend


@dataclass(frozen=True)
class RayWeights:
    """weights (m,): share of each sample in its pixel; transmittance (m,): light that reaches the
    sample's interval, before it; final_transmittance (n,): light that passes the whole ray.

    For each ray, the sum of weights plus final_transmittance is 1.
    """

    weights: Tensor
    transmittance: Tensor
    final_transmittance: Tensor


def render_weights(
    density: Tensor, samples: Samples, *, backend: SamplingBackend = "auto"
) -> RayWeights:
    """w_i = T_i (1 - exp(-sigma_i delta)), T_i = exp(-sum_{j<i} sigma_j delta).

    density: (m,), non-negative, one for each sample. For instance two samples of sigma delta = 1
    have T = (1, e^-1) and w = (0.632, 0.233), and e^-2 = 0.135 passes. Infinite density is a wall,
    with finite gradients; NaN stays NaN for the rest of its ray.
    backend: as `march_rays` takes it; "nerfacc" composites by nerfacc's scan too, and everything
    else is plain torch. Raises AcceleratorError where nerfacc is asked for and cannot be used.
    """
    n_rays = samples.n_rays
    if len(samples) == 0:
        empty = density * 1.0
        return RayWeights(empty, empty, density.new_ones(n_rays) + density.sum())
    if compositing_backend(backend, density.device.type) == "nerfacc":
        return _nerfacc_weights(density, samples)
    optical = density * samples.step
    # Samples are padded to (rays with samples, most samples on a ray) for the scan alone: one scan
    # over all rays would lose a ray's own sums in those of the rays before it.
    counts = samples.offsets.diff()
    hit = counts > 0
    width = int(counts.max())
    slot = hit.cumsum(0) - 1
    rank = torch.arange(len(samples), device=density.device) - samples.offsets[samples.ray_index]
    place = slot[samples.ray_index] * (width + 1) + rank
    # One zero in front makes the scan exclusive without a subtraction, which would give
    # inf - inf at a wall.
    n_hit = int(hit.sum())
    padded = density.new_zeros(n_hit * (width + 1)).index_copy(0, place + 1, optical)
    depth = padded.view(n_hit, width + 1).cumsum(dim=1)
    transmittance = torch.exp(-depth.reshape(-1)[place])
    weights = transmittance * -torch.expm1(-optical)
    # Padding is zero, so the last column is the whole ray's sum.
    final = density.new_ones(n_rays).index_copy(0, hit.nonzero()[:, 0], torch.exp(-depth[:, -1]))
    return RayWeights(weights, transmittance, final)


def _nerfacc_weights(density: Tensor, samples: Samples) -> RayWeights:
    """As `render_weights`, for at least one sample."""
    from nerfacc import render_weight_from_density

    # Only lengths matter. Differences of distances would lose digits.
    start = torch.zeros_like(density)
    weights, transmittance, _ = render_weight_from_density(
        start,
        start + samples.step,
        density,
        ray_indices=samples.ray_index,
        n_rays=samples.n_rays,
    )
    depth = density.new_zeros(samples.n_rays)
    depth = depth.index_add(0, samples.ray_index, density * samples.step)
    return RayWeights(weights, transmittance, torch.exp(-depth))


def accumulate(weights: Tensor, values: Tensor, samples: Samples) -> Tensor:
    """Per-ray sums of weights (m,) times values (m, c): (n, c), zero where a ray has no sample."""
    out = values.new_zeros(samples.n_rays, values.shape[1])
    return out.index_add(0, samples.ray_index, weights[:, None] * values)
