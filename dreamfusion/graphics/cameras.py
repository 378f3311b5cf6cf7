"""Cameras and rays. This docstring defines the conventions of cameras and axes.

World frame: right-handed, +Y is up, the object faces +Z, the scene is the box [-1, 1]^3.
These are glTF's axes, so meshes are exported without any conversion.

Spherical position of a camera: azimuth 0 deg is on +Z, in front of the object; azimuth grows
towards +X (counter-clockwise seen from above), so a camera at 90 deg sees the object's left side,
and one at 180 deg its back. Elevation 0 deg is the horizon, 90 deg is straight above.

Camera frame: OpenGL's. x right, y up, the camera looks along -z. `T_world_camera` maps points of
the camera frame to the world frame. Pixel (row i, column j) of an image of height h and width w
has its centre at ((j + 0.5) / w, (i + 0.5) / h), row 0 being the top row.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config.schema import CameraConfig
from dreamfusion.utils.devices import send

SHOW_ELEVATION_DEG = 15.0


@dataclass(frozen=True)
class Cameras:
    """A batch of pinhole cameras with square pixels.

    T_world_camera: rigid transforms, camera to world (frames: see the module's docstring).
    fov_y_deg: full vertical field of view, degrees.
    azimuth_deg, elevation_deg: of the camera's position, without jitter; degrees.
    distance: from the origin, without jitter; scene units.
    """

    T_world_camera: Float[Tensor, "views 4 4"]
    fov_y_deg: Float[Tensor, " views"]
    azimuth_deg: Float[Tensor, " views"]
    elevation_deg: Float[Tensor, " views"]
    distance: Float[Tensor, " views"]

    def __len__(self) -> int:
        return self.fov_y_deg.shape[0]

    def __getitem__(self, which: slice) -> Cameras:
        return self._map(lambda value: value[which])

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras with every tensor on `device`."""
        return self._map(lambda value: send(value, device))

    @staticmethod
    def cat(parts: Sequence[Cameras]) -> Cameras:
        """All cameras, in order."""
        names = [field.name for field in dataclasses.fields(Cameras)]
        return Cameras(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def _map(self, change: Callable[[Tensor], Tensor]) -> Cameras:
        return Cameras(*(change(getattr(self, field.name)) for field in dataclasses.fields(self)))

    @property
    def positions(self) -> Float[Tensor, "views 3"]:
        """Camera centres in the world frame."""
        return self.T_world_camera[:, :3, 3]


@dataclass(frozen=True)
class Rays:
    """Rays of any batch shape, with unit directions, in the world frame."""

    origins: Float[Tensor, "*rays 3"]
    directions: Float[Tensor, "*rays 3"]

    def flatten(self) -> Rays:
        """The same rays with one batch axis, in row-major order."""
        return Rays(self.origins.reshape(-1, 3), self.directions.reshape(-1, 3))


def spherical_to_cartesian(
    azimuth_deg: Float[Tensor, "*batch"], elevation_deg: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3"]:
    """Unit vectors from the origin towards the given azimuth and elevation (degrees)."""
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    radius = torch.cos(elevation)
    x, z = radius * torch.sin(azimuth), radius * torch.cos(azimuth)
    return torch.stack([x, torch.sin(elevation), z], dim=-1)


def look_at(
    positions: Float[Tensor, "views 3"],
    targets: Float[Tensor, "views 3"],
    up: Float[Tensor, "views 3"],
) -> Float[Tensor, "views 4 4"]:
    """Camera-to-world transforms of cameras at `positions` that look at `targets`.

    `up` need not be a unit vector or orthogonal to the viewing direction. If it is parallel to it
    (a camera straight above), -Z is used instead, so that the result is always a rotation.
    """
    backward = torch.nn.functional.normalize(positions - targets, dim=-1)
    right = torch.linalg.cross(up, backward)
    degenerate = right.norm(dim=-1, keepdim=True) < 1e-5
    fallback = torch.tensor([0.0, 0.0, -1.0], dtype=positions.dtype, device=positions.device)
    right = torch.where(degenerate, torch.linalg.cross(fallback.expand_as(up), backward), right)
    right = torch.nn.functional.normalize(right, dim=-1)
    true_up = torch.linalg.cross(backward, right)
    transform = torch.eye(4, dtype=positions.dtype, device=positions.device)
    transform = transform.repeat(positions.shape[0], 1, 1)
    transform[:, :3, 0] = right
    transform[:, :3, 1] = true_up
    transform[:, :3, 2] = backward
    transform[:, :3, 3] = positions
    return transform


def orbit_cameras(
    azimuth_deg: Float[Tensor, " views"],
    elevation_deg: Float[Tensor, " views"],
    distance: Float[Tensor, " views"],
    fov_y_deg: Float[Tensor, " views"],
) -> Cameras:
    """Cameras on spheres around the origin, looking at it, upright."""
    positions = spherical_to_cartesian(azimuth_deg, elevation_deg) * distance[:, None]
    up = torch.tensor([0.0, 1.0, 0.0], dtype=positions.dtype, device=positions.device)
    transform = look_at(positions, torch.zeros_like(positions), up.expand_as(positions))
    return Cameras(transform, fov_y_deg, azimuth_deg, elevation_deg, distance)


def turntable_cameras(
    n: int, *, elevation_deg: float = 15.0, distance: float = 2.8, fov_y_deg: float = 40.0
) -> Cameras:
    """n cameras at equal distances around the object, the first one in front of it."""
    azimuth = torch.arange(n, dtype=torch.float32) * (360.0 / n)
    constants = (torch.full((n,), value) for value in (elevation_deg, distance, fov_y_deg))
    return orbit_cameras(azimuth, *constants)


def show_cameras(
    n: int, camera: CameraConfig, *, elevation_deg: float = SHOW_ELEVATION_DEG
) -> Cameras:
    """n cameras around the object, at the middle of the ranges of distance and field of view."""
    middle = {}
    if camera.fov_y_deg is not None:
        middle = {"distance": sum(camera.distance) / 2, "fov_y_deg": sum(camera.fov_y_deg) / 2}
    return turntable_cameras(n, elevation_deg=elevation_deg, **middle)


def sample_cameras(
    n: int,
    *,
    elevation_deg: tuple[float, float],
    distance: tuple[float, float],
    fov_y_deg: tuple[float, float] | None = None,
    focal_length: tuple[float, float] | None = None,
    position_jitter: float = 0.0,
    look_at_jitter: float = 0.0,
    up_jitter: float = 0.0,
    generator: torch.Generator,
    group_size: int = 1,
) -> Cameras:
    """Random cameras (DreamFusion, appendix A.2), on the CPU.

    Azimuth is stratified: the circle is divided into n equal arcs from a random start, with one
    camera in each. Half of the cameras (chosen at random) draw their elevation uniformly in angle,
    the others uniformly in area on the sphere. Distance is uniform in its range, and so is either
    the field of view or the focal length (in image widths); exactly one of the two must be given.
    position_jitter: half-width of a uniform offset of the position; look_at_jitter, up_jitter:
    standard deviations of normal offsets of the target and of the up vector; scene units.
    group_size: number of consecutive cameras in a group; n is a multiple of it. Random numbers are
    drawn once for each group, and its cameras are 360 / group_size degrees of azimuth apart,
    counter-clockwise seen from above.
    """
    if (fov_y_deg is None) == (focal_length is None):
        raise ValueError("give either fov_y_deg or focal_length")
    n //= group_size

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    start = torch.rand(1, generator=generator)
    arcs = (torch.arange(n) + torch.rand(n, generator=generator)) / n
    azimuth = ((start + arcs) % 1.0) * 360.0

    sin_low, sin_high = (math.sin(math.radians(value)) for value in elevation_deg)
    by_angle = uniform(*elevation_deg)
    by_area = torch.rad2deg(torch.asin(uniform(sin_low, sin_high)))
    elevation = torch.where(torch.rand(n, generator=generator) < 0.5, by_angle, by_area)

    radius = uniform(*distance)
    positions = spherical_to_cartesian(azimuth, elevation) * radius[:, None]
    positions = positions + position_jitter * (2 * torch.rand(n, 3, generator=generator) - 1)
    targets = look_at_jitter * torch.randn(n, 3, generator=generator)
    up = torch.tensor([0.0, 1.0, 0.0]) + up_jitter * torch.randn(n, 3, generator=generator)
    transform = look_at(positions, targets, up)
    if focal_length is not None:
        fov = torch.rad2deg(2.0 * torch.atan(0.5 / uniform(*focal_length)))
    elif fov_y_deg is not None:
        fov = uniform(*fov_y_deg)
    cameras = Cameras(transform, fov, azimuth, elevation, radius)
    if group_size == 1:
        return cameras
    # Repeat each camera, with its jitter, at group_size angles about the up axis.
    turn_deg = torch.arange(group_size) * (360.0 / group_size)
    angle = torch.deg2rad(turn_deg)
    turn = torch.eye(4).repeat(group_size, 1, 1)
    turn[:, 0, 0], turn[:, 0, 2] = torch.cos(angle), torch.sin(angle)
    turn[:, 2, 0], turn[:, 2, 2] = -torch.sin(angle), torch.cos(angle)
    repeated = cameras._map(lambda values: values.repeat_interleave(group_size, dim=0))
    return dataclasses.replace(
        repeated,
        T_world_camera=turn.repeat(n, 1, 1) @ repeated.T_world_camera,
        azimuth_deg=(repeated.azimuth_deg + turn_deg.repeat(n)) % 360.0,
    )


def generate_rays(cameras: Cameras, height: int, width: int) -> Rays:
    """One ray through the centre of each pixel, of batch shape (views, height, width).

    Without the half-pixel offset, an image would be shifted by half a pixel up and left, and two
    resolutions of one camera would show different parts of the scene.
    """
    device, dtype = cameras.T_world_camera.device, cameras.T_world_camera.dtype
    rows = 1.0 - 2.0 * (torch.arange(height, device=device, dtype=dtype) + 0.5) / height
    columns = 2.0 * (torch.arange(width, device=device, dtype=dtype) + 0.5) / width - 1.0
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    half = torch.tan(torch.deg2rad(cameras.fov_y_deg) / 2)[:, None, None].to(dtype)
    right = x[None] * half * (width / height)
    up = y[None] * half
    in_camera = torch.stack([right, up, torch.full_like(up, -1.0)], dim=-1)
    directions = torch.einsum("nij,nhwj->nhwi", cameras.T_world_camera[:, :3, :3], in_camera)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    origins = cameras.positions[:, None, None, :].expand_as(directions)
    return Rays(origins, directions)
