"""Ray marching in plain torch: all steps of all rays at once, of which occupied ones are kept.

Samples are packed: those of all rays are concatenated without padding. Accelerators are compared
with this reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.utils.backends import check_close


@dataclass(frozen=True)
class Samples:
    """Samples sorted by ray and then by distance.

    positions: world frame; each is the middle of an interval of length `step`, in scene units.
    t: distance from the ray's origin, scene units. ray_index: the ray of each sample.
    offsets: ray i has the samples offsets[i] ... offsets[i + 1] - 1.
    """

    positions: Float[Tensor, "n 3"]
    t: Float[Tensor, " n"]
    ray_index: Int64[Tensor, " n"]
    offsets: Int64[Tensor, " rays_plus_1"]
    step: float

    def __len__(self) -> int:
        return self.t.shape[0]

    @property
    def n_rays(self) -> int:
        """The number of rays, including rays without samples."""
        return self.offsets.shape[0] - 1

    def select(self, keep: Bool[Tensor, " n"]) -> Samples:
        """Only the samples where `keep` is True; the number of rays is unchanged."""
        kept = torch.zeros(len(self) + 1, dtype=torch.int64, device=keep.device)
        torch.cumsum(keep, dim=0, out=kept[1:])
        index = keep.nonzero()[:, 0]  # only once, because this waits for the GPU
        return Samples(
            positions=self.positions[index],
            t=self.t[index],
            ray_index=self.ray_index[index],
            offsets=kept[self.offsets],
            step=self.step,
        )


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


def check_marching(march: Callable[..., Samples], device: str) -> Samples:
    """Return the samples. Raise RuntimeError if they differ from the reference's."""
    grid = OccupancyGrid(resolution=8)
    grid.update(lambda points: 20.0 * (points.norm(dim=-1) < 0.6), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    origins = torch.tensor([0.0, 0.0, 3.0]) + 0.2 * torch.randn(16, 3, generator=generator)
    directions = torch.nn.functional.normalize(-origins + 0.1, dim=-1)
    jitter = torch.rand(16, generator=generator)
    rays = (origins, directions, jitter)
    expected = march_reference(*rays, grid, 0.05, 2.0)
    found = march(*(part.to(device) for part in rays), grid.to(device), 0.05, 2.0)
    # Due to rounding, a sample on the border of two cells may be in either.
    if abs(len(found) - len(expected)) > 0.02 * len(expected):
        raise RuntimeError(f"its marching finds {len(found)} samples instead of {len(expected)}")
    if len(found) == len(expected):
        check_close("marching", found.positions.cpu(), expected.positions)
    return found
