"""Pictures of toy objects: geometry seen once, then coloured, lit and put on a background."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ..cameras import Cameras, generate_rays
from .objects import PALETTE_TABLE, GeometryBuffers, ToyObject

SHADINGS = ("albedo", "lambertian", "textureless")


def view(obj: ToyObject, cameras: Cameras, size: int) -> GeometryBuffers:
    """Depth, normals and colour index of `obj`, each (n, size, size, ...), from n cameras."""
    rays = generate_rays(cameras, size, size)
    return obj.trace(rays.origins.numpy(), rays.directions.numpy())


def shade(
    buffers: GeometryBuffers,
    *,
    shading: str,
    light_direction: NDArray[np.float32],
    ambient: float = 0.4,
    background: NDArray[np.float32],
    palette: NDArray[np.float32] = PALETTE_TABLE,
) -> NDArray[np.float32]:
    """One picture (h, w, 3) in [0, 1] of one view's buffers.

    shading: "albedo" (no light), "lambertian" or "textureless" (the same light on white).
    light_direction: (3,) unit vector towards the light; the diffuse share is 1 - ambient.
    background: (3,). palette: (colours, 3), indexed by the buffers' colour index.
    """
    color = palette[buffers.color_index]
    if shading != "albedo":
        diffuse = np.maximum(buffers.normals @ light_direction, 0.0)
        light = (ambient + (1.0 - ambient) * diffuse)[..., None]
        color = light if shading == "textureless" else color * light
    picture = np.where(buffers.color_index[..., None] > 0, color, background)
    return picture.astype(np.float32)


def downsample(pictures: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Box-filtered pictures (..., h, w, c) at 1/factor of their size."""
    *lead, h, w, c = pictures.shape
    blocks = pictures.reshape(*lead, h // factor, factor, w // factor, factor, c)
    return blocks.mean(axis=(-4, -2))


def picture(
    obj: ToyObject,
    cameras: Cameras,
    size: int,
    *,
    shading: str = "lambertian",
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
    supersample: int = 2,
) -> torch.Tensor:
    """Antialiased pictures (n, size, size, 3) in [0, 1], lit from beside and above each camera."""
    buffers = view(obj, cameras, size * supersample)
    plain = np.asarray(background, dtype=np.float32)
    pictures = []
    for i in range(len(cameras)):
        right, up, backward = cameras.T_world_camera[i, :3, :3].numpy().T
        light = 0.4 * right + 0.5 * up + 0.8 * backward
        one = GeometryBuffers(buffers.depth[i], buffers.normals[i], buffers.color_index[i])
        pictures.append(
            shade(
                one,
                shading=shading,
                light_direction=light / np.linalg.norm(light),
                background=plain,
            )
        )
    return torch.from_numpy(downsample(np.stack(pictures), supersample))
