import math

import pytest
import torch

from dreamfusion.graphics.cameras import Rays
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching import march_rays
from dreamfusion.scenes.nerf.volume import accumulate, render_weights
from tests.helpers.backends import every_marching, skip_if_absent
from tests.helpers.marching import (
    GRIDS,
    assert_nearly_the_same,
    many_rays,
    occupied_ball,
)


@every_marching
@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("name", GRIDS)
def test_backends_give_the_reference_samples(backend, device, name, seed):
    skip_if_absent(backend, device)
    rays = many_rays(10)
    make_grid, min_transmittance = GRIDS[name]
    grid = make_grid()

    def march(device, backend):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return march_rays(
            Rays(rays.origins.to(device), rays.directions.to(device)),
            grid.to(device),
            step=0.07,
            min_transmittance=min_transmittance,
            generator=generator,
            backend=backend,
        )

    # Divisions on the same device have the same rounding.
    expected, found = march(device, "reference"), march(device, backend)
    assert len(expected) > 500
    assert found.offsets[-1] == len(found)
    if backend == "nerfacc":
        assert_nearly_the_same(found, expected)
        return
    for part in ("offsets", "ray_index", "t", "positions"):
        assert torch.equal(getattr(found, part), getattr(expected, part)), part


@every_marching
def test_no_rays_have_no_samples(backend, device):
    skip_if_absent(backend, device)
    nothing = torch.zeros(0, 3, device=device)
    grid = OccupancyGrid(resolution=4).to(device)
    samples = march_rays(Rays(nothing, nothing), grid, step=0.1, backend=backend)
    assert len(samples) == 0 and samples.offsets.tolist() == [0]
    assert samples.positions.shape == (0, 3)


def test_intervals_tile_the_ray_inside_the_box():
    rays = Rays(torch.tensor([[0.0, 0, 3]]), torch.tensor([[0.0, 0, -1]]))
    samples = march_rays(rays, OccupancyGrid(resolution=4), step=0.1)
    assert len(samples) == 20
    starts, ends = samples.t - samples.step / 2, samples.t + samples.step / 2
    torch.testing.assert_close(starts[0], torch.tensor(2.0))
    torch.testing.assert_close(ends[-1], torch.tensor(4.0))
    torch.testing.assert_close(starts[1:], ends[:-1])


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


@every_marching
def test_rays_that_miss_the_box_have_no_samples(backend, device):
    skip_if_absent(backend, device)
    rays = Rays(
        torch.tensor([[0.0, 0, 3], [1.5, 0, 3]], device=device),
        torch.tensor([[0.0, 0, 1], [0, 0, -1]], device=device),
    )
    grid = OccupancyGrid(resolution=4).to(device)
    samples = march_rays(rays, grid, step=0.1, backend=backend)
    assert len(samples) == 0
    assert samples.offsets.tolist() == [0, 0, 0]


@every_marching
def test_empty_grids_have_no_samples(backend, device):
    skip_if_absent(backend, device)
    grid = OccupancyGrid(resolution=8)
    grid.update(lambda p: torch.zeros(len(p)), torch.Generator().manual_seed(0))
    rays = many_rays(4)
    samples = march_rays(
        Rays(rays.origins.to(device), rays.directions.to(device)),
        grid.to(device),
        step=0.1,
        backend=backend,
    )
    assert len(samples) == 0 and samples.n_rays == len(rays.origins)


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
    with pytest.raises(ValueError, match="backend must be"):
        march_rays(rays, OccupancyGrid(resolution=4), step=0.1, backend="cuda")
    double = Rays(rays.origins.double(), rays.directions.double())
    with pytest.raises(ValueError, match="numba supports ray marching in float32 only"):
        march_rays(double, OccupancyGrid(resolution=4), step=0.1, backend="numba")


@every_marching
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rays_that_are_not_finite_are_refused(backend, device, bad):
    skip_if_absent(backend, device)
    rays = many_rays(4)
    rays.directions[7, 1] = bad
    broken = Rays(rays.origins.to(device), rays.directions.to(device))
    with pytest.raises(ValueError, match="finite"):
        march_rays(broken, OccupancyGrid(resolution=4).to(device), step=0.1, backend=backend)


def test_rays_end_in_solids_but_not_before_their_transmittance_is_low():
    grid = occupied_ball(resolution=32)

    def density(points):
        return 40.0 * (points.norm(dim=-1) < 0.5)

    rays = many_rays()
    full = march_rays(rays, grid, step=0.02, min_transmittance=0.0)
    some = march_rays(rays, grid, step=0.02, min_transmittance=1e-3)
    assert len(some) < 0.8 * len(full)
    found = render_weights(density(full.positions), full)
    last = torch.full((full.n_rays,), -1.0).scatter_reduce(0, some.ray_index, some.t, "amax")
    ends = full.t > last[full.ray_index]
    assert ends.any()
    # The transmittance at a sample is the sum of later weights and the final transmittance.
    hidden = accumulate(found.weights * ends, torch.ones(len(full), 1), full)[:, 0]
    cut = torch.zeros(full.n_rays, dtype=torch.bool).index_fill(0, full.ray_index[ends], True)
    assert (hidden + found.final_transmittance)[cut].max() < 1e-3
