"""Shading, the light of displayed results, and images of normals and depth.

A displayed image is RGBA in [0, 1] with straight (not premultiplied) alpha; pixels without opacity
are black.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.config.schema import ShadingConfig
from dreamfusion.graphics.cameras import Rays
from dreamfusion.utils.devices import send

Shading = Literal["albedo", "lambertian", "textureless"]
ImageMode = Literal["color", "albedo", "normals", "depth", "textureless"]
IMAGE_MODES: tuple[ImageMode, ...] = ("color", "albedo", "normals", "depth", "textureless")
# Ambient share of the light in displayed results; the other modes are unlit.
SHOW_AMBIENT: dict[ImageMode, float] = {"color": 0.7, "textureless": 0.3}


@dataclass(frozen=True)
class Lighting:
    """The light of one or more views.

    shading: "albedo" is unlit; "lambertian" and "textureless" (white) need a position, one for all
    views or one for each, in the world frame. ambient: share of the light that comes from all
    directions, in [0, 1]; the rest is diffuse.
    """

    shading: Shading = "albedo"
    position: Float[Tensor, "*views 3"] | None = None
    ambient: float = ShadingConfig.ambient

    def __post_init__(self) -> None:
        if self.shading not in get_args(Shading):
            raise ValueError(f"unknown shading {self.shading!r}")
        if self.shading != "albedo" and self.position is None:
            raise ValueError(f"shading={self.shading!r} needs a position of the light")

    def to(self, device: torch.device) -> Lighting:
        """The same light with its position on `device`."""
        if self.position is None:
            return self
        return replace(self, position=send(self.position, device))

    def __getitem__(self, which: slice) -> Lighting:
        if self.position is None or self.position.ndim == 1:
            return self
        return replace(self, position=self.position[which])


def lambertian(
    normals: Float[Tensor, "n 3"],
    positions: Float[Tensor, "n 3"],
    light_position: Float[Tensor, "n 3"],
    *,
    ambient: float,
) -> Float[Tensor, " n"]:
    """ambient + (1 - ambient) max(0, n . l), for a point light without attenuation (DreamFusion,
    eq. 8, whose shares add up to 1 here). normals: unit; all in the world frame."""
    direction = torch.nn.functional.normalize(light_position - positions, dim=-1)
    return ambient + (1.0 - ambient) * (normals * direction).sum(dim=-1).clamp(min=0.0)


def depth_normals(rays: Rays, depth: Float[Tensor, "views h w"]) -> Float[Tensor, "views h w 3"]:
    """Normals, towards the camera, of the surface that an image of depth describes: from central
    differences of the points, one-sided at the edges. Zero where these coincide."""
    points = (rays.origins + depth[..., None] * rays.directions).movedim(-1, 1)
    points = torch.nn.functional.pad(points, (1, 1, 1, 1), mode="replicate").movedim(1, -1)
    right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    up = points[:, :-2, 1:-1] - points[:, 2:, 1:-1]
    return torch.nn.functional.normalize(torch.linalg.cross(right, up), dim=-1)


def show_light_position(T_world_camera: Float[Tensor, "4 4"]) -> Float[Tensor, " 3"]:
    """Position of the light of a displayed image: above and to the left of the camera."""
    return T_world_camera[:3, 3] + T_world_camera[:3, 1] - 0.7 * T_world_camera[:3, 0]


def color_normals(normals: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Normals of any length as colours in [0, 1]: x red, y green, z blue."""
    return torch.nn.functional.normalize(normals, dim=-1) * 0.5 + 0.5


def color_depth(
    depth: Float[Tensor, "*batch"], T_world_camera: Float[Tensor, "4 4"]
) -> Float[Tensor, "*batch 3"]:
    """Depth as grey: white one unit nearer than the world's origin, dark one unit farther."""
    middle = float(T_world_camera[:3, 3].norm())
    near, far = max(middle - 1.0, 0.0), middle + 1.0
    grey = 1.0 - 0.85 * ((depth - near) / (far - near)).clamp(0.0, 1.0)
    return grey[..., None].expand(*depth.shape, 3)


def with_alpha(
    color: Float[Tensor, "*batch 3"], opacity: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 4"]:
    """RGBA of straight colours and opacity, black where the opacity is 0."""
    alpha = opacity[..., None].clamp(0.0, 1.0)
    return torch.cat([color.clamp(0.0, 1.0) * (alpha > 0), alpha], dim=-1)


def over(
    rgba: Float[Tensor, "*batch 4"], background: Float[Tensor, "*#batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """RGBA images on a background that broadcasts with them."""
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + background * (1.0 - alpha)
