"""Rays and occupancy grids for tests of all ray marching backends."""

import torch

from dreamfusion.graphics.cameras import Rays, generate_rays, turntable_cameras
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching import Samples


def occupied_ball(resolution: int = 16, radius: float = 0.5) -> OccupancyGrid:
    grid = OccupancyGrid(resolution=resolution)
    grid.update(lambda p: 40.0 * (p.norm(dim=-1) < radius), torch.Generator().manual_seed(0))
    return grid


def many_rays(size: int = 24) -> Rays:
    views = generate_rays(turntable_cameras(3, distance=2.0), size, size).flatten()
    special = torch.tensor(
        [[0.0, 0, 3], [0, 0, 0], [5, 5, 5], [2.0, 0, 3], [0, 0.3, -3], [1.0, 0, 3]]
    )
    towards = torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0], [0, 0, -1], [0, 0, 1], [0, 0, -1]])
    return Rays(torch.cat([views.origins, special]), torch.cat([views.directions, towards]))


def walls_of_glass(resolution: int = 16) -> OccupancyGrid:
    """A grid whose density lower bound is small everywhere and large in the middle."""
    grid = OccupancyGrid(resolution=resolution)
    grid.update(lambda p: 1.0 + 200.0 * (p.norm(dim=-1) < 0.5), torch.Generator().manual_seed(0))
    return grid


# With the least transmittance of each.
GRIDS = {
    "full": (lambda: OccupancyGrid(resolution=16), 1e-3),
    "ball": (occupied_ball, 1e-3),
    "glass": (walls_of_glass, 1e-3),
    "glass-that-ends-no-ray": (walls_of_glass, 0.0),
    "one-cell": (lambda: OccupancyGrid(resolution=1), 0.5),
}


def assert_nearly_the_same(found: Samples, expected: Samples) -> None:
    """Compare up to rounding, by which a sample on a border may be in only one of them."""
    difference = (found.offsets.diff() - expected.offsets.diff()).abs()
    assert difference.max() <= 2
    assert (difference > 0).float().mean() < 0.05
    same = difference == 0
    a, b = (s.select(same[s.ray_index]) for s in (found, expected))
    moved = (a.t - b.t).abs() > 1e-4
    assert moved.float().mean() < 0.01
    torch.testing.assert_close(a.positions[~moved], b.positions[~moved], atol=2e-4, rtol=0)
