"""Ray marching in plain torch: all steps of all rays at once, of which occupied ones are kept."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching.samples import Samples


def box_interval(
    origins: Float[Tensor, "rays 3"], directions: Float[Tensor, "rays 3"]
) -> tuple[Float[Tensor, " rays"], Float[Tensor, " rays"]]:
    """The distances at which rays enter and leave the box [-1, 1]^3, scene units.

    The first is never negative. For a ray that misses the box, the second is less than the first.
    """
    near = torch.zeros_like(origins[:, 0])
    far = torch.full_like(near, math.inf)
    for axis in range(3):
        o, d = origins[:, axis], directions[:, axis]
        parallel = d.abs() < 1e-9
        one, two = (-1.0 - o) / d, (1.0 - o) / d
        missed = parallel & (o.abs() > 1.0)
        low = torch.where(parallel, torch.full_like(o, -math.inf), torch.minimum(one, two))
        high = torch.where(parallel, torch.full_like(o, math.inf), torch.maximum(one, two))
        high = torch.where(missed, torch.full_like(o, -math.inf), high)
        near, far = torch.maximum(near, low), torch.minimum(far, high)
    return near, far


def march_reference(
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    jitter: Float[Tensor, " rays"],
    occupancy: OccupancyGrid,
    step: float,
    max_depth: float,
) -> Samples:
    """See `ray_marching.march_rays` for the arguments."""
    near, far = box_interval(origins, directions)
    n_steps = math.ceil(2.0 * math.sqrt(3.0) / step) + 1
    k = torch.arange(n_steps, device=origins.device, dtype=origins.dtype)
    t = near[:, None] + (k[None, :] + jitter[:, None]) * step
    positions = origins[:, None, :] + t[..., None] * directions[:, None, :]
    flat = positions.reshape(-1, 3)
    keep = (t < far[:, None]) & occupancy.is_occupied(flat).reshape(t.shape)
    # Summing many small numbers needs double precision. Apple's GPUs do not have it; some of their
    # rays end one sample earlier or later.
    exact = torch.float32 if origins.device.type == "mps" else torch.float64
    bound = occupancy.density_lower_bound(flat).reshape(t.shape)
    before = torch.nn.functional.pad(bound.cumsum(dim=1, dtype=exact)[:, :-1], (1, 0))
    keep &= before <= max_depth / step
    offsets = torch.zeros(origins.shape[0] + 1, dtype=torch.int64, device=origins.device)
    offsets[1:] = keep.sum(dim=1).cumsum(0)
    kept = keep.reshape(-1).nonzero()[:, 0]
    return Samples(flat[kept], t.reshape(-1)[kept], kept // n_steps, offsets, step)
