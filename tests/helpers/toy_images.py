"""Renders images of toy objects for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.toyworld.objects import PALETTE_TABLE, ToyObject, downsample, shade, view


def draw_object(
    obj: ToyObject,
    cameras: Cameras,
    size: int,
    *,
    shading: str = "lambertian",
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    supersample: int = 2,
) -> Tensor:
    """Antialiased images (n, size, size, 3) in [0, 1], lit from beside and above each camera."""
    buffers = view(obj, cameras, size * supersample)
    n = len(cameras)
    palettes = torch.from_numpy(PALETTE_TABLE).repeat(n, 1, 1)
    palettes[:, 0] = torch.tensor(background)
    toward = torch.tensor([0.4, 0.5, 0.8])  # right, up, backward of each camera
    light = torch.einsum("nij,j->ni", cameras.T_world_camera[:, :3, :3], toward)
    shaded = shade(
        torch.from_numpy(buffers.normals),
        torch.from_numpy(buffers.color_index),
        palettes=palettes,
        shadings=[shading] * n,
        light_directions=torch.nn.functional.normalize(light, dim=-1),
        ambient=torch.full((n,), 0.4),
    )
    return downsample(shaded, supersample)
