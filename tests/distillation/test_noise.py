"""Noise anchored to the surface: its distribution, and agreement between views."""

import pytest
import torch

from dreamfusion.distillation.noise import spot_numbers, surface_noise
from dreamfusion.graphics.cameras import generate_rays, orbit_cameras


def cameras(azimuth, distance=2.8, elevation=10.0):
    n = len(azimuth)
    return orbit_cameras(
        torch.tensor(azimuth),
        torch.full((n,), elevation),
        torch.full((n,), distance),
        torch.full((n,), 40.0),
    )


def ball(cameras, size, radius=0.5):
    """Depth and opacity (n, size, size) of a ball around the origin."""
    rays = generate_rays(cameras, size, size)
    along = -(rays.origins * rays.directions).sum(-1)
    inside = along**2 - rays.origins.square().sum(-1) + radius**2
    depth = torch.where(inside > 0, along - inside.clamp(min=0).sqrt(), 0.0)
    return depth, (inside > 0).float()


def draw(views, size=64, seed=1, fresh=0, radius=0.5, shape=None):
    depth, opacity = ball(views, size, radius)
    generator = torch.Generator().manual_seed(fresh)
    shape = (len(views), 3, size, size) if shape is None else shape
    numbers = spot_numbers(shape[1], seed, torch.device("cpu"))
    noise = surface_noise(
        shape, generator, cameras=views, depth=depth, opacity=opacity, numbers=numbers
    )
    return noise, opacity > 0.5


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()


@pytest.mark.parametrize("radius", [0.15, 0.3, 0.5, 0.95])
def test_noise_is_standard_normal_for_any_surface(radius):
    parts = [draw(cameras([0.0, 77.0, 200.0]), seed=seed, radius=radius) for seed in range(12)]
    seen = torch.cat([noise.movedim(1, -1)[mask] for noise, mask in parts]).double()
    assert seen.mean().abs() < 0.05
    assert seen.std() == pytest.approx(1.0, abs=0.04)
    # Fourth moment of a normal distribution: 3. A mixture of variances would have more.
    assert (seen**4).mean() == pytest.approx(3.0, abs=0.3)
    assert abs(correlation(seen[:, 0], seen[:, 1])) < 0.05  # channels


def test_neighbouring_pixels_are_almost_independent():
    noise, mask = draw(cameras([0.0]), radius=0.95)
    for axis in (1, 2):
        both = mask & mask.roll(1, axis)
        pair = (x.movedim(1, -1)[both] for x in (noise, noise.roll(1, axis + 1)))
        assert abs(correlation(*pair)) < 0.1


def test_only_the_surface_keeps_its_noise():
    views = cameras([0.0, 120.0])
    (first, mask), (second, _) = draw(views, fresh=0), draw(views, fresh=1)
    same = (first == second).movedim(1, -1)
    assert same[mask].all() and not same[~mask].any()
    expected = torch.randn(first.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first.movedim(1, -1)[~mask], expected.movedim(1, -1)[~mask])
    other, _ = draw(views, seed=2)
    assert abs(correlation(first.movedim(1, -1)[mask], other.movedim(1, -1)[mask])) < 0.1


def test_two_views_of_a_point_have_the_same_noise():
    """A rotation of the camera by three pixels moves the middle of the ball by three pixels."""
    size, radius = 64, 0.5
    pixel = 2 * torch.tan(torch.deg2rad(torch.tensor(20.0))) * (2.8 - radius) / size
    turn = torch.rad2deg(3 * pixel / radius).item()
    noise, _ = draw(cameras([0.0, turn], elevation=0.0), size=size, radius=radius)
    middle = slice(size // 2 - 5, size // 2 + 5)
    moved = [
        correlation(noise[0, :, middle, 24:40], noise[1, :, middle, 24 + by : 40 + by])
        for by in range(-5, 6)
    ]
    best = max(range(11), key=lambda k: abs(moved[k]))
    assert abs(best - 5) == 3, moved
    assert moved[best] > 0.5, moved
    assert all(abs(value) < 0.3 for k, value in enumerate(moved) if abs(k - best) > 1), moved


def test_a_slightly_moved_surface_keeps_most_of_its_noise():
    views = cameras([0.0])
    first, mask = draw(views, radius=0.50)
    second, _ = draw(views, radius=0.51)
    middle = mask & (ball(views, 64, 0.3)[1] > 0.5)  # away from the rim
    before, after = (x.movedim(1, -1)[middle] for x in (first, second))
    assert correlation(before, after) > 0.5


def test_noise_for_a_latent_prior_has_the_size_of_latents():
    views = cameras([0.0, 120.0])
    noise, _ = draw(views, size=64, shape=(2, 4, 8, 8))
    again, _ = draw(views, size=64, shape=(2, 4, 8, 8), fresh=5)
    assert noise.shape == (2, 4, 8, 8)
    assert torch.equal(noise[..., 3:5, 3:5], again[..., 3:5, 3:5])
    assert not torch.equal(noise[..., 0, 0], again[..., 0, 0])


def test_an_empty_view_has_ordinary_noise_and_no_gradient():
    views = cameras([0.0])
    depth = torch.zeros(1, 16, 16, requires_grad=True)
    noise = surface_noise(
        (1, 3, 16, 16),
        torch.Generator().manual_seed(3),
        cameras=views,
        depth=depth,
        opacity=torch.zeros(1, 16, 16),
        numbers=spot_numbers(3, 0, torch.device("cpu")),
    )
    assert torch.equal(noise, torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(3)))
    assert not noise.requires_grad
