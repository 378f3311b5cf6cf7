"""Light on surfaces, and pictures of quantities that are not colours."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Shading = Literal["albedo", "lambertian", "textureless"]


def lambertian(
    normals: Tensor,
    positions: Tensor,
    light_position: Tensor,
    *,
    ambient: float = 0.1,
    diffuse: float = 0.9,
) -> Tensor:
    """ambient + diffuse max(0, n . l), (m,), for a point light whose strength does not fall off.

    normals (unit), positions, light_position: (m, 3), world frame. DreamFusion, eq. 8.
    """
    towards = torch.nn.functional.normalize(light_position - positions, dim=-1)
    return ambient + diffuse * (normals * towards).sum(dim=-1).clamp(min=0.0)


def color_normals(normals: Tensor, opacity: Tensor) -> Tensor:
    """Normals (..., 3) as colours in [0, 1]: x red, y green, z blue, on white.

    normals: composited, so their length is at most opacity (...,).
    """
    unit = torch.nn.functional.normalize(normals, dim=-1)
    solid = opacity[..., None].clamp(0.0, 1.0)
    return (unit * 0.5 + 0.5) * solid + (1.0 - solid)


def color_depth(depth: Tensor, opacity: Tensor, *, near: float, far: float) -> Tensor:
    """Depth (...,) as grey (..., 3): white at `near`, dark at `far`, on black."""
    grey = 1.0 - 0.85 * ((depth - near) / (far - near)).clamp(0.0, 1.0)
    return (grey * opacity.clamp(0.0, 1.0))[..., None].expand(*depth.shape, 3)
