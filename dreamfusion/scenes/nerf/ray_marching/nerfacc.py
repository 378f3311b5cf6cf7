"""Ray marching and compositing with nerfacc's kernels (Li et al. 2023, "NerfAcc"), for CUDA."""

import math

import torch
from jaxtyping import Float32
from nerfacc import render_weight_from_density, traverse_grids
from torch import Tensor

from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching.reference import Samples, box_interval


def require_extension() -> None:
    """Raise RuntimeError if nerfacc's extension cannot be built; nerfacc only prints a message."""
    from nerfacc.cuda import _backend

    if _backend._C is None:
        raise RuntimeError("its CUDA extension is not built and there is no nvcc to build it with")


def march_nerfacc(
    origins: Float32[Tensor, "rays 3"],
    directions: Float32[Tensor, "rays 3"],
    jitter: Float32[Tensor, " rays"],
    occupancy: OccupancyGrid,
    step: float,
    max_depth: float,
) -> Samples:
    """`ray_marching.march_rays` for finite float32 tensors on one CUDA device.

    nerfacc accumulates steps, so distances differ from the reference's by rounding, and a sample on
    the border of two cells may be in either. It does not support the bound, which is applied after.
    """
    near, far = box_interval(origins, directions)
    box = torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]], device=origins.device)
    _, found, _ = traverse_grids(
        origins,
        directions,
        occupancy.occupied[None],
        box,
        # The first sample is the middle of the first interval.
        near_planes=near + (jitter - 0.5) * step,
        step_size=step,
        # nerfacc's own intersection is NaN for rays in a face of the box.
        t_sorted=torch.stack([near, far], dim=1),
        t_indices=torch.tensor([0, 1], device=origins.device).expand(len(origins), 2),
        hits=(far > near)[:, None],
    )
    t, ray_index = found.vals, found.ray_indices
    positions = origins[ray_index] + t[:, None] * directions[ray_index]
    counts = torch.bincount(ray_index, minlength=origins.shape[0])
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    samples = Samples(positions=positions, t=t, ray_index=ray_index, offsets=offsets, step=step)
    if math.isinf(max_depth):
        return samples
    # Clamped, so that infinite density on one ray does not cause inf - inf on the following rays.
    limit = max_depth / step
    bound = occupancy.density_lower_bound(positions).double().clamp(max=2.0 * limit + 1.0)
    before = torch.nn.functional.pad(bound.cumsum(0), (1, 0))
    return samples.select(before[:-1] - before[offsets[ray_index]] <= limit)


def weights_nerfacc(
    density: Float32[Tensor, " n"], samples: Samples
) -> tuple[Float32[Tensor, " n"], Float32[Tensor, " rays"]]:
    """Weights and final transmittance as in `volume.RayWeights`, for at least one sample."""
    # Only lengths matter, and differences of distances would lose precision.
    start = torch.zeros_like(density)
    end, index = start + samples.step, samples.ray_index
    weights, _, _ = render_weight_from_density(
        start, end, density, ray_indices=index, n_rays=samples.n_rays
    )
    depth = density.new_zeros(samples.n_rays)
    depth = depth.index_add(0, index, density * samples.step)
    return weights, torch.exp(-depth)
