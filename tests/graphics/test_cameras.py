"""Conventions of cameras and rays."""

from __future__ import annotations

import math

import pytest
import torch

from dreamfusion.graphics.cameras import (
    generate_rays,
    look_at,
    orbit_cameras,
    sample_cameras,
    spherical_to_cartesian,
    turntable_cameras,
)


def one(azimuth: float, elevation: float, distance: float = 3.0, fov: float = 40.0):
    return orbit_cameras(*(torch.tensor([v]) for v in (azimuth, elevation, distance, fov)))


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [(0, 0, (0, 0, 1)), (90, 0, (1, 0, 0)), (180, 0, (0, 0, -1)), (0, 90, (0, 1, 0)),
     (-90, 0, (-1, 0, 0))],
)  # fmt: skip
def test_azimuth_turns_from_plus_z_to_plus_x_and_elevation_rises(azimuth, elevation, expected):
    found = spherical_to_cartesian(torch.tensor(float(azimuth)), torch.tensor(float(elevation)))
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float32), atol=1e-6)


@pytest.mark.parametrize("elevation", [-90.0, -89.999, 0.0, 45.0, 89.999, 90.0])
def test_every_transform_is_a_rotation_that_looks_at_the_origin(elevation: float):
    cameras = one(30.0, elevation)
    rotation = cameras.T_world_camera[0, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3), atol=1e-5)
    assert torch.det(rotation) == pytest.approx(1.0, abs=1e-5)
    forward = -rotation[:, 2]
    assert torch.allclose(forward, -cameras.positions[0] / 3.0, atol=1e-5)


def test_up_is_up_and_right_is_right():
    rotation = one(0.0, 20.0).T_world_camera[0, :3, :3]
    assert torch.allclose(rotation[:, 0], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)
    assert rotation[1, 1] > 0.9


def test_look_at_a_camera_above_is_continuous_with_one_almost_above():
    up = torch.tensor([[0.0, 1.0, 0.0]])
    above = look_at(torch.tensor([[0.0, 2.0, 0.0]]), torch.zeros(1, 3), up)
    nearly = look_at(torch.tensor([[0.0, 2.0, 1e-3]]), torch.zeros(1, 3), up)
    assert torch.allclose(above, nearly, atol=2e-3)
    assert torch.equal(above[0, :3, 1], torch.tensor([0.0, 0.0, -1.0]))


def test_rays_are_unit_and_span_the_field_of_view():
    rays = generate_rays(one(0.0, 0.0, fov=60.0), 101, 101)
    assert torch.allclose(rays.directions.norm(dim=-1), torch.ones(1, 101, 101), atol=1e-6)
    middle = rays.directions[0, 50, 50]
    assert torch.allclose(middle, torch.tensor([0.0, 0.0, -1.0]), atol=1e-6)
    top = rays.directions[0, 0, 50]
    angle = math.degrees(math.atan2(float(top[1]), float(-top[2])))
    edge = math.degrees(math.atan(math.tan(math.radians(30)) * 100 / 101))
    assert angle == pytest.approx(edge, abs=1e-3)


def test_first_row_is_the_top_and_last_column_the_right():
    directions = generate_rays(one(0.0, 0.0), 8, 8).directions[0]
    assert (directions[0, :, 1] > 0).all()
    assert (directions[:, -1, 0] > 0).all()


def test_half_pixel_offset_makes_resolutions_agree():
    coarse = generate_rays(one(10.0, 10.0), 4, 4).directions
    fine = generate_rays(one(10.0, 10.0), 8, 8).directions
    pooled = fine.reshape(1, 4, 2, 4, 2, 3).mean(dim=(2, 4))
    assert torch.allclose(torch.nn.functional.normalize(pooled, dim=-1), coarse, atol=1e-3)


def test_pixels_are_square_in_wide_images():
    directions = generate_rays(one(0.0, 0.0), 32, 64).directions[0]
    in_plane = directions / -directions[..., 2:]
    across = in_plane[0, 1, 0] - in_plane[0, 0, 0]
    down = in_plane[0, 0, 1] - in_plane[1, 0, 1]
    assert across == pytest.approx(float(down), rel=1e-4)


def test_turntable_starts_in_front_and_goes_round_evenly():
    cameras = turntable_cameras(8)
    assert cameras.positions[0, 2] > 2
    assert torch.allclose(cameras.azimuth_deg.diff(), torch.full((7,), 45.0))


def draw(n: int, seed: int = 0, **kwargs: float):
    ranges = {"elevation_deg": (-10.0, 80.0), "distance": (2.0, 3.0), "fov_y_deg": (30.0, 50.0)}
    generator = torch.Generator().manual_seed(seed)
    return sample_cameras(n, **ranges, **kwargs, generator=generator)  # type: ignore[arg-type]


def test_samples_keep_their_ranges_and_repeat_for_a_seed():
    cameras = draw(500)
    for values, (low, high) in (
        (cameras.elevation_deg, (-10, 80)),
        (cameras.distance, (2, 3)),
        (cameras.fov_y_deg, (30, 50)),
        (cameras.azimuth_deg, (0, 360)),
    ):
        assert values.min() >= low - 1e-4
        assert values.max() <= high + 1e-4
    assert torch.allclose(cameras.positions.norm(dim=1), cameras.distance, atol=1e-5)
    assert torch.equal(cameras.T_world_camera, draw(500).T_world_camera)
    assert not torch.equal(cameras.T_world_camera, draw(500, seed=1).T_world_camera)


@pytest.mark.parametrize("seed", range(20))
def test_azimuth_is_stratified(seed: int):
    azimuth = draw(4, seed).azimuth_deg.sort().values
    gaps = torch.cat([azimuth.diff(), azimuth[:1] + 360 - azimuth[-1:]])
    assert gaps.max() < 180, "two neighbouring arcs left empty"


def test_elevation_is_half_by_angle_and_half_by_area():
    elevation = draw(20000).elevation_deg
    by_angle = (45 + 10) / 90
    low, middle, high = (math.sin(math.radians(v)) for v in (-10, 45, 80))
    by_area = (middle - low) / (high - low)
    share = float((elevation < 45).float().mean())
    assert share == pytest.approx((by_angle + by_area) / 2, abs=0.015)


def test_jitter_moves_cameras_but_not_their_angles():
    plain, moved = draw(50), draw(50, position_jitter=0.1, look_at_jitter=0.2, up_jitter=0.02)
    assert torch.equal(plain.azimuth_deg, moved.azimuth_deg)
    offset = (moved.positions - plain.positions).abs()
    assert 0 < offset.max() <= 0.1 + 1e-5
    rotation = moved.T_world_camera[:, :3, :3]
    identity = torch.eye(3).expand(50, 3, 3)
    assert torch.allclose(rotation @ rotation.transpose(1, 2), identity, atol=1e-5)


def test_a_focal_length_of_half_a_width_sees_ninety_degrees():
    def camera(focal):
        ranges = {"elevation_deg": (0.0, 0.0), "distance": (1.0, 1.0)}
        generator = torch.Generator().manual_seed(0)
        return sample_cameras(1, **ranges, focal_length=(focal, focal), generator=generator)

    assert camera(0.5).fov_y_deg.item() == pytest.approx(90.0)
    rays = generate_rays(one(0.0, 0.0, fov=camera(1.35).fov_y_deg.item()), 2, 2)
    # At focal length f, the edge of the image is at 0.5 / f, the pixels' centres at half of that.
    x, y, z = rays.directions[0, 0, 1].tolist()
    assert (x / -z, y / -z) == pytest.approx((0.25 / 1.35, 0.25 / 1.35))


def test_focal_lengths_are_uniform_and_exclude_a_field_of_view():
    ranges = {"elevation_deg": (0.0, 0.0), "distance": (1.0, 1.0)}
    generator = torch.Generator().manual_seed(0)
    cameras = sample_cameras(4000, **ranges, focal_length=(0.7, 1.35), generator=generator)
    focal = 0.5 / torch.tan(torch.deg2rad(cameras.fov_y_deg) / 2)
    assert 0.7 <= focal.min() < 0.701 and 1.349 < focal.max() <= 1.3501
    assert focal.mean().item() == pytest.approx(1.025, abs=0.01)
    for both in ({}, {"fov_y_deg": (40.0, 40.0), "focal_length": (1.0, 1.0)}):
        with pytest.raises(ValueError, match="fov_y_deg or focal_length"):
            sample_cameras(1, **ranges, **both, generator=generator)


def test_a_slice_of_cameras_contains_the_same_cameras():
    cameras = turntable_cameras(5)
    some = cameras[1:3]
    assert len(some) == 2
    assert torch.equal(some.T_world_camera, cameras.T_world_camera[1:3])
    assert some.azimuth_deg.tolist() == [72.0, 144.0]
