"""What a step looks at: random cameras, lights and backgrounds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from dreamfusion.config.schema import Config
from dreamfusion.graphics.cameras import Cameras, sample_cameras
from dreamfusion.graphics.shading import Lighting, Shading
from dreamfusion.scenes.nerf.background import Background
from dreamfusion.utils.devices import send


@dataclass(frozen=True)
class Views:
    """n cameras, how they are lit and what stands behind. size: height and width of the pictures,
    pixels. step_size: distance of samples along a ray, scene units."""

    cameras: Cameras
    size: int
    step_size: float
    lighting: Lighting
    background: Background

    def to(self, device: torch.device) -> Views:
        """The same views with every tensor on `device`."""
        background = self.background
        if isinstance(background, Tensor):
            background = send(background, device)
        return dataclasses.replace(
            self,
            cameras=self.cameras.to(device),
            lighting=self.lighting.to(device),
            background=background,
        )

    def __getitem__(self, which: slice) -> Views:
        """Some of the views."""
        background = self.background
        if isinstance(background, Tensor) and background.ndim == 2:
            background = background[which]
        return dataclasses.replace(
            self,
            cameras=self.cameras[which],
            lighting=self.lighting[which],
            background=background,
        )


def sample_views(
    config: Config, step: int, generator: torch.Generator, *, own_background: Background
) -> Views:
    """Random cameras, one shading for all of them, lights near the cameras and backgrounds, on the
    CPU.

    A light's direction is the camera's plus normal noise (DreamFusion, A.2). own_background: the
    scene's, where the settings want a learned one.
    """
    n, camera, shading = config.camera.views, config.camera, config.shading
    cameras = sample_cameras(
        n,
        elevation_deg=camera.elevation_deg,
        distance=camera.distance,
        fov_y_deg=camera.fov_y_deg,
        focal_length=camera.focal_length,
        position_jitter=camera.position_jitter,
        look_at_jitter=camera.look_at_jitter,
        up_jitter=camera.up_jitter,
        generator=generator,
    )
    towards = torch.nn.functional.normalize(cameras.positions, dim=-1)
    towards = towards + shading.light_spread * torch.randn(n, 3, generator=generator)
    low, high = shading.light_distance
    distance = low + (high - low) * torch.rand(n, 1, generator=generator)
    light_position = torch.nn.functional.normalize(towards, dim=-1) * distance

    lit, bare, plain = torch.rand(3, generator=generator).tolist()
    kind: Shading = "albedo"
    if lit < shading.lambertian.at(step, config.steps):
        bare_share = shading.textureless.at(step, config.steps)
        kind = "textureless" if bare < bare_share else "lambertian"
    low, high = config.background.brightness
    background: Background = low + (high - low) * torch.rand(n, 3, generator=generator)
    if config.background.kind == "fixed":
        background = torch.tensor(config.background.color)
    elif config.background.kind == "learned" and plain >= config.background.plain_share:
        background = own_background
    lighting = Lighting(kind, light_position, shading.ambient)
    step_size = config.render.step_size.at(step, config.steps)
    return Views(cameras, render_size(config, step), step_size, lighting, background)


def render_size(config: Config, step: int) -> int:
    """Height and width of the pictures at `step`, a multiple of 8 pixels."""
    return max(8, round(config.render.resolution.at(step, config.steps) / 8) * 8)
