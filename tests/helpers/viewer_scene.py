"""A scene that looks different from all sides, and a screen without a browser."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.runs.checkpoint import SavedScene
from dreamfusion.scenes.nerf.field import FieldOutput
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.viewer.pose import Pose
from dreamfusion.viewer.stage import Choice
from tests.helpers.scenes import FieldScene


class Balls:
    """A red ball in the middle, a green one on top, a blue one on its left side (+X). The density
    is 20 exp(-falloff distance), so that the surface at each density is known."""

    centres = torch.tensor([[0.0, 0, 0], [0.0, 0.5, 0.0], [0.5, 0.0, 0.1]])
    radii = torch.tensor([0.4, 0.2, 0.15])
    colors = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.7, 0.1], [0.1, 0.2, 0.8]])

    def __init__(self, falloff: float = 20.0) -> None:
        self.falloff = falloff

    def distances(self, points: Tensor) -> Tensor:
        return (points[:, None] - self.centres).norm(dim=-1) - self.radii

    def density(self, points: Tensor) -> Tensor:
        return 20.0 * torch.exp(-self.falloff * self.distances(points).amin(dim=1)).clamp(max=50.0)

    def __call__(self, points: Tensor) -> FieldOutput:
        nearest = self.distances(points).argmin(dim=1)
        return FieldOutput(self.density(points), self.colors[nearest])

    def normals(self, points: Tensor) -> Tensor:
        nearest = self.distances(points).argmin(dim=1)
        return torch.nn.functional.normalize(points - self.centres[nearest], dim=-1)


def subject(step: int = 1, falloff: float = 20.0, *, step_size: float | None = None) -> SavedScene:
    field = Balls(falloff)
    grid = OccupancyGrid(resolution=32)
    for seed in range(2):
        grid.update(field.density, torch.Generator().manual_seed(seed))
    return SavedScene(step, FieldScene(field, grid, step_size=step_size))


def pose_of(cameras: Cameras, aspect: float = 1.0) -> Pose:
    """Convert a camera to viser's convention. The quaternion is computed by
    w = sqrt(1 + trace) / 2, which is not zero for the cameras in tests."""
    m = cameras.T_world_camera[0, :3, :3].double() * torch.tensor([1.0, -1.0, -1.0])
    w = 0.5 * math.sqrt(1.0 + float(m.trace()))
    x, y, z = (
        float(m[(i + 2) % 3, (i + 1) % 3] - m[(i + 1) % 3, (i + 2) % 3]) / (4 * w) for i in range(3)
    )
    px, py, pz = cameras.positions[0].tolist()
    return Pose((w, x, y, z), (px, py, pz), math.radians(float(cameras.fov_y_deg[0])), aspect)


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeScreen:
    """Records its input; tests set visitors and view options. On its clock, rendering takes a
    second for 30,000 pixels."""

    def __init__(self, clock: Clock, *poses: Pose) -> None:
        self.clock = clock
        self.poses = dict(enumerate(poses))
        self.wanted = Choice()
        self.pictures: list[tuple[int, object]] = []
        self.meshes: list[object] = []
        self.said: list[str] = []

    def visitors(self):
        return self.poses

    def choice(self):
        return self.wanted

    def show_image(self, visitor, picture):
        self.clock.now += picture.shape[0] * picture.shape[1] / 30_000
        self.pictures.append((visitor, picture))

    def show_mesh(self, mesh):
        self.meshes.append(mesh)

    def say(self, text):
        self.said.append(text)
