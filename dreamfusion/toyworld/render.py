"""Pictures of toy objects: geometry seen once, then coloured, lit and put on a background."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras, generate_rays
from dreamfusion.toyworld.objects import PALETTE_TABLE, GeometryBuffers, ToyObject


def view(obj: ToyObject, cameras: Cameras, size: int) -> GeometryBuffers:
    """Depth, normals and colour index of `obj`, each (n, size, size, ...), from n cameras."""
    rays = generate_rays(cameras, size, size)
    return obj.trace(rays.origins.numpy(), rays.directions.numpy())


def shade(
    normals: Tensor,
    color_index: Tensor,
    *,
    palettes: Tensor,
    shadings: Sequence[str],
    light_directions: Tensor,
    ambient: Tensor,
) -> Tensor:
    """Pictures (n, h, w, 3) in [0, 1] of n views.

    normals: (n, h, w, 3) unit vectors. color_index: (n, h, w) rows of `palettes`, 0 where nothing
    is. palettes: (n, colours, 3); row 0 is the background. shadings: n of "albedo" (no light),
    "lambertian" and "textureless" (the same light on white). light_directions: (n, 3) unit vectors
    towards the lights. ambient: (n,) in [0, 1]; the diffuse share is the rest.
    """
    device = normals.device
    unlit = torch.tensor([s == "albedo" for s in shadings], device=device)[:, None, None, None]
    white = torch.tensor([s == "textureless" for s in shadings], device=device)
    index = color_index.long()
    n = len(index)
    colors = palettes[torch.arange(n, device=device)[:, None, None], index]
    diffuse = torch.einsum("nhwc,nc->nhw", normals, light_directions).clamp(0.0, 1.0)[..., None]
    share = ambient[:, None, None, None]
    light = torch.where(unlit, 1.0, share + (1.0 - share) * diffuse)
    surface = torch.where(white[:, None, None, None], 1.0, colors) * light
    return torch.where((index > 0)[..., None], surface, palettes[:, None, None, 0])


def downsample(pictures: Tensor, factor: int) -> Tensor:
    """Box-filtered pictures (n, h, w, c) at 1/factor of their size."""
    pooled = torch.nn.functional.avg_pool2d(pictures.movedim(-1, 1), factor)
    return pooled.movedim(1, -1)


def draw_object(
    obj: ToyObject,
    cameras: Cameras,
    size: int,
    *,
    shading: str = "lambertian",
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    supersample: int = 2,
) -> Tensor:
    """Antialiased pictures (n, size, size, 3) in [0, 1], lit from beside and above each camera."""
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
