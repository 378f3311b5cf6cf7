"""The self-test of accelerated ray marching: a few rays at a ball."""

from collections.abc import Callable

import torch

from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching.reference import march_reference
from dreamfusion.scenes.nerf.ray_marching.samples import Samples
from dreamfusion.utils.backends import check_close


def check_marching(march: Callable[..., Samples], device: str) -> Samples:
    """Return the samples. Raise RuntimeError if their number or their positions differ from the
    reference's."""
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
