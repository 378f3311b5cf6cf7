"""Volume rendering of packed samples (Max 1995; Mildenhall et al. 2020, eq. 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.scenes.nerf.ray_marching import MarchingBackend, Samples
from dreamfusion.utils.backends import Operation, check_close, choose


@dataclass(frozen=True)
class RayWeights:
    """weights: share of each sample in its pixel; final_transmittance: light that passes the whole
    ray.

    For each ray, the sum of weights plus final_transmittance is 1.
    """

    weights: Float[Tensor, " n"]
    final_transmittance: Float[Tensor, " rays"]


def _numba() -> Callable[..., Any]:
    from dreamfusion.scenes.nerf.volume.numba import weights_numba

    return weights_numba


def _nerfacc() -> Callable[..., Any]:
    from dreamfusion.scenes.nerf.ray_marching.nerfacc import require_extension
    from dreamfusion.scenes.nerf.volume.nerfacc import weights_nerfacc

    require_extension()
    return weights_nerfacc


def _check_compositing(composite: Callable[..., tuple[Tensor, ...]], device: str) -> None:
    """Raise RuntimeError unless the weights on a few rays are the reference's."""
    offsets = torch.tensor([0, 3, 3, 8], device=device)
    ray_index = torch.tensor([0, 0, 0, 2, 2, 2, 2, 2], device=device)
    t = torch.arange(8.0, device=device) / 10
    samples = Samples(t[:, None].expand(8, 3), t, ray_index, offsets, step=0.1)
    density = 5.0 + t.sin()
    expected = render_weights(density, samples, backend="reference").weights
    check_close("compositing", composite(density, samples)[0].cpu(), expected.cpu())


COMPOSITING = Operation(
    name="compositing",
    setting="scene.marching.backend",
    order={"cpu": ("numba",), "cuda": ("nerfacc",)},
    kernels={"numba": _numba, "nerfacc": _nerfacc},
    self_test=_check_compositing,
)


def compositing_backend(
    requested: str, device_type: str, dtype: torch.dtype = torch.float32
) -> str:
    """Who turns densities into weights: numba on a CPU, nerfacc where it was asked for, else plain
    torch, which does it in a few operations over all rays at once."""
    if requested not in ("auto", *COMPOSITING.kernels):
        return "reference"
    return choose(COMPOSITING, requested, device_type, dtype=dtype, unfit=("nerfacc",))


def render_weights(
    density: Float[Tensor, " n"], samples: Samples, *, backend: MarchingBackend = "auto"
) -> RayWeights:
    """w_i = T_i (1 - exp(-sigma_i delta)), T_i = exp(-sum_{j<i} sigma_j delta).

    density: non-negative, one for each sample. For instance two samples of sigma delta = 1
    have T = (1, e^-1) and w = (0.632, 0.233), and e^-2 = 0.135 passes. Infinite density is a wall,
    with finite gradients; NaN stays NaN for the rest of its ray.
    backend: as `march_rays` takes it; see `compositing_backend`. "auto" takes plain torch for types
    other than float32. Raises AcceleratorError where an accelerator is asked for and cannot be
    used, ValueError where it is asked for another type.
    """
    n_rays = samples.n_rays
    if len(samples) == 0:
        return RayWeights(density * 1.0, density.new_ones(n_rays) + density.sum())
    chosen = compositing_backend(backend, density.device.type, density.dtype)
    if chosen != "reference":
        return RayWeights(*COMPOSITING.kernels[chosen]()(density, samples))
    optical = density * samples.step
    # Samples are padded to (rays with samples, most samples on a ray) for the scan alone: one scan
    # over all rays would lose a ray's own sums in those of the rays before it.
    counts = samples.offsets.diff()
    hit = counts > 0
    # Both at once: on a GPU each reading waits for all that was asked of it.
    width, n_hit = torch.stack([counts.max(), hit.sum()]).tolist()
    slot = hit.cumsum(0) - 1
    rank = torch.arange(len(samples), device=density.device) - samples.offsets[samples.ray_index]
    place = slot[samples.ray_index] * (width + 1) + rank
    # One zero in front makes the scan exclusive without a subtraction, which would give
    # inf - inf at a wall.
    padded = density.new_zeros(n_hit * (width + 1)).index_copy(0, place + 1, optical)
    depth = padded.view(n_hit, width + 1).cumsum(dim=1)
    transmittance = torch.exp(-depth.reshape(-1)[place])
    weights = transmittance * -torch.expm1(-optical)
    # Padding is zero, so the last column is the whole ray's sum.
    # The rays of the slots; those without a slot share one that is cut off.
    rays = torch.arange(n_rays, device=density.device)
    hit_rays = rays.new_empty(n_hit + 1).scatter_(0, torch.where(hit, slot, n_hit), rays)[:-1]
    final = density.new_ones(n_rays).index_copy(0, hit_rays, torch.exp(-depth[:, -1]))
    return RayWeights(weights, final)


def accumulate(
    weights: Float[Tensor, " n"], values: Float[Tensor, "n c"], samples: Samples
) -> Float[Tensor, "{samples.n_rays} c"]:
    """Sums of weights times values along each ray, zero where a ray has no sample."""
    out = values.new_zeros(samples.n_rays, values.shape[1])
    return out.index_add(0, samples.ray_index, weights[:, None] * values)
