"""Renders toy objects: geometry buffers, which are then coloured, lit and composited."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras, generate_rays
from dreamfusion.toyworld.objects import GeometryBuffers, ToyObject


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
    """Shade n views: images (n, h, w, 3) in [0, 1].

    normals: (n, h, w, 3) unit vectors. color_index: (n, h, w) rows of `palettes`, 0 for background.
    palettes: (n, colours, 3); row 0 is the background. shadings: n of "albedo" (no light),
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


def downsample(images: Tensor, factor: int) -> Tensor:
    """Downsample images (n, h, w, c) by a factor, with a box filter."""
    pooled = torch.nn.functional.avg_pool2d(images.movedim(-1, 1), factor)
    return pooled.movedim(1, -1)
