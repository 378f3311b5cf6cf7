"""Splats from another scene: placed on its surface, then fitted to its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from dreamfusion.graphics.cameras import sample_cameras
from dreamfusion.mesh.extract import vertex_normals
from dreamfusion.scenes.base import Scene, Views
from dreamfusion.scenes.gaussians.splats import PARAMETERS, Splats
from dreamfusion.utils.errors import UserError

if TYPE_CHECKING:
    from dreamfusion.scenes.gaussians.scene import GaussianScene
    from dreamfusion.scenes.gaussians.settings import GaussianSettings

_FIT_STEPS, _FIT_VIEWS, _FIT_SIZE = 150, 4, 96
_FIT_CAMERAS: Any = {
    "elevation_deg": (-40.0, 80.0), "distance": (2.6, 3.2), "fov_y_deg": (35.0, 45.0),
}  # fmt: skip
_RATES = (2e-3, 1e-2, 1e-2, 0.05, 0.03)


def splats_of(start: Scene, settings: GaussianSettings, generator: torch.Generator) -> Splats:
    """The splats of a scene of splats, or new ones on the surface of another scene, flat along it
    and grey. Raises MeshError without a surface, UserError for another number of splats."""
    if isinstance(found := getattr(start, "splats", None), Splats):
        if len(found.means) != settings.count:
            raise UserError(
                f"the scene that the run starts from has {len(found.means)} splats: set "
                f"scene.count={len(found.means)}"
            )
        return Splats(*(getattr(found, name).detach().cpu().clone() for name in PARAMETERS))
    surface, n = start.surface(), settings.count
    corners = torch.from_numpy(surface.vertices[surface.faces]).float()
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    face = torch.multinomial(areas.norm(dim=-1), n, replacement=True, generator=generator)
    u, v = torch.rand(2, n, 1, generator=generator)
    u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
    a, b, c = corners[face].unbind(1)
    smooth = vertex_normals(surface.vertices, surface.faces)
    normals = torch.from_numpy(smooth[surface.faces].mean(axis=1)).float()[face]
    spacing = float((areas.norm(dim=-1).sum() / 2 / n).sqrt())
    scales = torch.tensor([spacing, spacing, spacing / 4]).repeat(n, 1).clamp(min=0.005)
    means = a + u * (b - a) + v * (c - a)
    logits, colors = torch.full((n,), 2.0), torch.full((n, 3), 0.5)
    return Splats(means, scales.log(), _towards(normals), logits, colors)


def _towards(normals: torch.Tensor) -> torch.Tensor:
    """Quaternions (w, x, y, z) that rotate the z axis to the normals."""
    unit = torch.nn.functional.normalize(normals, dim=-1)
    x, y, z = unit.unbind(-1)
    turned = torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=-1)
    around_x = torch.tensor([0.0, 1.0, 0.0, 0.0])  # half a turn, for normals along -z
    return torch.where((1 + z)[:, None] < 1e-4, around_x, turned)


def fit(scene: GaussianScene, start: Scene, generator: torch.Generator) -> None:
    """Fit splats to unlit images of another scene, by Adam on the mean squared error of colours on
    random backgrounds, from all sides."""
    groups = [
        {"params": [getattr(scene.splats, name)], "lr": rate}
        for name, rate in zip(PARAMETERS, _RATES, strict=True)
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
    for _ in range(_FIT_STEPS):
        cameras = sample_cameras(_FIT_VIEWS, **_FIT_CAMERAS, generator=generator)
        background = torch.rand(_FIT_VIEWS, 3, generator=generator)
        views = Views(cameras, _FIT_SIZE, _FIT_SIZE, background=background)
        with torch.no_grad():
            wanted = start.render(views).rgb.to(scene.device)
        loss = (scene.render(views).rgb - wanted).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            scene.splats.limit(scene.settings.max_scale)
