"""What there is to render: a field, where it is empty, and what stands behind it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.config.schema import RenderConfig
from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.scenes.nerf.background import Background
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.renderer import RadianceField, render_image

WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Scene:
    """A radiance field in the box [-1, 1]^3, the grid that knows where it is empty, and its own
    background, which training may replace by plain colours. All on one device."""

    field: RadianceField
    occupancy: OccupancyGrid
    background: Background = dataclasses.field(default_factory=lambda: torch.ones(3))

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.occupancy.density.device

    def render(
        self,
        cameras: Cameras,
        *,
        size: int,
        mode: ImageMode = "color",
        background: tuple[float, float, float] = WHITE,
        options: RenderConfig | None = None,
    ) -> Tensor:
        """Pictures (n, size, size, 3) in [0, 1] on the CPU, on a plain background (sRGB).

        mode: color, albedo, normals, depth or textureless. options: see `renderer.render`.
        """
        rgba = render_image(self, cameras, height=size, width=size, mode=mode, options=options)
        return over(rgba, torch.tensor(background))
