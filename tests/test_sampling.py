import math

import pytest
import torch

from dreamfusion.cameras import Rays, generate_rays, turntable_cameras
from dreamfusion.occupancy import OccupancyGrid
from dreamfusion.sampling import march_rays
from dreamfusion.volume import render_weights


def occupied_ball(resolution: int = 16, radius: float = 0.5) -> OccupancyGrid:
    grid = OccupancyGrid(resolution=resolution)
    grid.update(lambda p: 40.0 * (p.norm(dim=-1) < radius), torch.Generator().manual_seed(0))
    return grid


def many_rays() -> Rays:
    views = generate_rays(turntable_cameras(3, distance=2.0), 24, 24).flatten()
    special = torch.tensor(
        [[0.0, 0, 3], [0, 0, 0], [5, 5, 5], [2.0, 0, 3], [0, 0.3, -3], [1.0, 0, 3]]
    )
    towards = torch.tensor([[0.0, 0, -1], [0, 1, 0], [1, 0, 0], [0, 0, -1], [0, 0, 1], [0, 0, -1]])
    return Rays(torch.cat([views.origins, special]), torch.cat([views.directions, towards]))


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("full", [True, False])
def test_backends_give_the_same_samples_to_the_bit(seed, full):
    grid = OccupancyGrid(resolution=16) if full else occupied_ball()
    results = []
    for backend in ("numba", "reference"):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        results.append(
            march_rays(many_rays(), grid, step=0.03, generator=generator, backend=backend)
        )
    first, second = results
    for name in ("offsets", "ray_index", "t", "positions"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert len(first) > 1000


def test_intervals_tile_the_ray_inside_the_box():
    rays = Rays(torch.tensor([[0.0, 0, 3]]), torch.tensor([[0.0, 0, -1]]))
    samples = march_rays(rays, OccupancyGrid(resolution=4), step=0.1)
    assert len(samples) == 20
    torch.testing.assert_close(samples.t_start[0], torch.tensor(2.0))
    torch.testing.assert_close(samples.t_end[-1], torch.tensor(4.0))
    torch.testing.assert_close(samples.t_start[1:], samples.t_end[:-1])


def test_every_sample_is_occupied_and_none_is_missing():
    grid = occupied_ball()
    rays = many_rays()
    full = march_rays(rays, OccupancyGrid(resolution=16), step=0.05)
    some = march_rays(rays, grid, step=0.05, min_transmittance=0.0)
    assert grid.is_occupied(some.positions).all()
    expected = full.select(grid.is_occupied(full.positions))
    assert torch.equal(expected.t, some.t)
    assert torch.equal(expected.offsets, some.offsets)


def test_offsets_and_order():
    samples = march_rays(many_rays(), occupied_ball(), step=0.05)
    counts = torch.bincount(samples.ray_index, minlength=samples.n_rays)
    assert torch.equal(counts.cumsum(0), samples.offsets[1:])
    same_ray = samples.ray_index[1:] == samples.ray_index[:-1]
    assert (samples.t.diff()[same_ray] > 0).all()
    assert (samples.ray_index.diff() >= 0).all()


def test_rays_that_miss_the_box_have_no_samples():
    rays = Rays(torch.tensor([[0.0, 0, 3], [1.5, 0, 3]]), torch.tensor([[0.0, 0, 1], [0, 0, -1]]))
    for backend in ("numba", "reference"):
        samples = march_rays(rays, OccupancyGrid(resolution=4), step=0.1, backend=backend)
        assert len(samples) == 0
        assert samples.offsets.tolist() == [0, 0, 0]


def test_jitter_moves_by_less_than_half_a_step_and_follows_the_generator():
    rays = many_rays()
    grid = OccupancyGrid(resolution=4)
    still = march_rays(rays, grid, step=0.1)
    moved = [
        march_rays(rays, grid, step=0.1, generator=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    ]
    assert torch.equal(moved[0].t, moved[1].t)
    assert not torch.equal(moved[0].t[:100], moved[2].t[:100])
    first_still = still.t[still.offsets[:100]]
    first_moved = moved[0].t[moved[0].offsets[:100]]
    assert ((first_still - first_moved).abs() <= 0.05 + 1e-5).all()


def test_bad_arguments_are_refused():
    rays = many_rays()
    with pytest.raises(ValueError, match="step must be positive"):
        march_rays(rays, OccupancyGrid(resolution=4), step=0.0)
    broken = Rays(rays.origins * math.nan, rays.directions)
    with pytest.raises(ValueError, match="finite"):
        march_rays(broken, OccupancyGrid(resolution=4), step=0.1)


def test_rays_end_inside_solids_but_never_where_light_still_passes():
    grid = occupied_ball(resolution=32)

    def density(points):
        return 40.0 * (points.norm(dim=-1) < 0.5)

    rays = many_rays()
    full = march_rays(rays, grid, step=0.02, min_transmittance=0.0)
    some = march_rays(rays, grid, step=0.02, min_transmittance=1e-3)
    assert len(some) < 0.8 * len(full)
    transmittance = render_weights(density(full.positions), full).transmittance
    last = torch.full((full.n_rays,), -1.0).scatter_reduce(0, some.ray_index, some.t, "amax")
    ends = full.t > last[full.ray_index]
    assert ends.any()
    assert transmittance[ends].max() < 1e-3
