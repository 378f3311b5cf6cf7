"""Fields with known shapes, as scenes and as meshes."""

from functools import partial

import torch
import trimesh
from torch import Tensor

from dreamfusion.mesh.extract import Mesh, extract_surface
from dreamfusion.scenes.nerf.field import FieldOutput
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.scene import NerfScene
from dreamfusion.scenes.nerf.surface import density_grid, find_threshold, surface_colors
from tests.helpers.scenes import FieldScene


class Balls:
    """Balls (x, y, z, radius) with a density that increases inwards; red towards +Z."""

    def __init__(self, balls, *, peak: float = 200.0, width: float = 0.002, hollow=0.0) -> None:
        self.balls = torch.tensor(balls, dtype=torch.float32)
        self.peak, self.width, self.hollow = peak, width, hollow

    def distance(self, points: Tensor) -> Tensor:
        to_centres = (points[:, None] - self.balls[:, :3]).norm(dim=-1)
        outside = to_centres - self.balls[:, 3]
        if self.hollow:
            outside = torch.maximum(outside, self.hollow - to_centres)
        return outside.amin(dim=1)

    def density(self, points: Tensor) -> Tensor:
        return self.peak * torch.sigmoid(-self.distance(points) / self.width)

    def __call__(self, points: Tensor) -> FieldOutput:
        front = (points[:, 2:] > 0).float()
        red, blue = torch.tensor([0.9, 0.2, 0.1]), torch.tensor([0.1, 0.2, 0.8])
        return FieldOutput(self.density(points), front * red + (1 - front) * blue)

    def normals(self, points: Tensor) -> Tensor:
        raise NotImplementedError


def occupied_by(field) -> OccupancyGrid:
    grid = OccupancyGrid(resolution=32)
    for seed in range(2):
        grid.update(field.density, torch.Generator().manual_seed(seed))
    return grid


def scene_of(field, *, step_size: float | None = None) -> NerfScene:
    return FieldScene(field, occupied_by(field), step_size=step_size)


def extract(field, *, resolution: int = 48, threshold: float | None = None, **smoothing) -> Mesh:
    """The mesh of a field; see `mesh_of`."""
    return mesh_of(scene_of(field), resolution=resolution, threshold=threshold, **smoothing)


def mesh_of(
    scene: NerfScene, *, resolution: int, threshold: float | None = None, smoothing: float = 1.0
) -> Mesh:
    """Like `NerfScene.surface`, which always smooths by one sample, with vertex colours."""
    if smoothing == 1.0:
        return scene.surface(resolution=resolution, threshold=threshold).colored()
    threshold = find_threshold(scene) if threshold is None else threshold
    density, color = density_grid(scene, resolution), partial(surface_colors, scene)
    return extract_surface(density, threshold, color, smoothing=smoothing).colored()


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
