"""Gaussian splats as a scene: parameters, schedules, optimiser, average, images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.graphics.cameras import generate_rays
from dreamfusion.graphics.shading import depth_normals, lambertian
from dreamfusion.mesh.extract import Surface, extract_surface
from dreamfusion.scenes.base import Rendered, Scene, Views, adam, update_average
from dreamfusion.scenes.gaussians.files import writers
from dreamfusion.scenes.gaussians.rasterizer import RASTERIZING, Gaussians, rasterize, rasterizer_of
from dreamfusion.scenes.gaussians.settings import GaussianSettings
from dreamfusion.scenes.gaussians.splats import PARAMETERS, Splats, ball, relocate
from dreamfusion.scenes.gaussians.start import fit, splats_of
from dreamfusion.scenes.gaussians.surface import SplatColors, density_grid, find_threshold
from dreamfusion.utils.backends import skipped
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress

# Relocation begins and ends at these fractions of a run: first shapes form, last details settle.
_RELOCATED = (0.1, 0.85)


class GaussianScene(nn.Module, Scene):
    """Gaussian splats in the box [-1, 1]^3. All on one device.

    generator: draws the initial values, on the CPU. start: a scene whose splats, or whose surface,
    initialise this one. Raises MeshError if `start` has no surface.
    """

    def __init__(
        self,
        settings: GaussianSettings,
        *,
        device: str = "cpu",
        generator: torch.Generator,
        start: Scene | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        if start is None:
            size, opacity = settings.radius, settings.opacity
            splats = ball(settings.count, radius=size, opacity=opacity, generator=generator)
        else:
            splats = splats_of(start.averaged, settings, generator)
        self.splats = splats.to(device)
        self._smoothness = 0.0
        if start is not None and not isinstance(start, GaussianScene):
            fit(self, start.averaged, generator)
        rates = settings.optimizer
        groups = [([getattr(self.splats, name)], 0.0) for name in PARAMETERS]
        self.optimizer = adam(groups, rates, device)
        average = copy.deepcopy(self.splats).requires_grad_(False) if rates.ema > 0 else None
        self.ema_splats: Splats | None = average

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.splats.means.device

    @property
    def averaged(self) -> GaussianScene:
        """The scene with the averaged splats in place of the trained ones."""
        if self.ema_splats is None:
            return self
        shown = copy.copy(self)
        shown._modules = {**self._modules, "splats": self.ema_splats, "ema_splats": None}
        return shown

    def before_step(self, progress: Progress, generator: torch.Generator) -> None:
        """Apply the schedules of learning rates, opacities and smoothness."""
        settings, rates = self.settings, self.settings.optimizer
        means, colors = rates.means.at(*progress), rates.colors.at(*progress)
        values = (means, rates.scales, rates.rotations, rates.opacities, colors)
        for group, value in zip(self.optimizer.param_groups, values, strict=True):
            group["base_lr"] = value
        for splats in (self.splats, self.ema_splats):
            if splats is not None:
                splats.sharpness.fill_(settings.sharpness.at(*progress))
        self._smoothness = settings.smoothness.at(*progress)

    def render(self, views: Views, generator: Generators | None = None) -> Rendered:
        """See `Scene.render`. Light acts on the normals of the image of depth. Nothing is sampled,
        so that `generator` is not used."""
        views = views.to(self.device)
        splats, cameras, light = self.splats, views.cameras, views.lighting
        n = len(cameras)
        colors = splats.colors[None].expand(n, -1, -1)
        distance = (splats.means - cameras.positions[:, None]).norm(dim=-1, keepdim=True)
        features = torch.cat([colors, distance], dim=-1)
        covariances = splats.covariances(self.settings.blur)
        gaussians = Gaussians(splats.means, covariances, splats.opacities, features)
        drawn, opacity = rasterize(gaussians, cameras, views.height, views.width)
        rgb, depth = drawn[..., :3], drawn[..., 3] / opacity.clamp(min=1e-6)
        normals = None
        if views.normals or light.position is not None or self._smoothness > 0:
            rays = generate_rays(cameras, views.height, views.width)
            normals = depth_normals(rays, depth)
            if light.shading != "albedo" and light.position is not None:
                positions = rays.origins + depth.detach()[..., None] * rays.directions
                lights = light.position.expand(n, 3)[:, None, None].expand_as(normals)
                flat = (part.reshape(-1, 3) for part in (normals, positions, lights))
                shade = lambertian(*flat, ambient=light.ambient).reshape(opacity.shape)[..., None]
                rgb = (opacity[..., None] if light.shading == "textureless" else rgb) * shade
        behind = rgb.new_ones(3) if views.background is None else views.background
        rgb = rgb + (1 - opacity[..., None]) * behind.expand(n, 3)[:, None, None]
        return Rendered(rgb, opacity, depth, normals)

    def regularisers(
        self, rendered: Rendered, progress: Progress, generator: torch.Generator
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Smoothness, as the settings weigh it."""
        if self._smoothness <= 0 or rendered.normals is None:
            return {}
        return {"smoothness": self._smoothness * smoothness(rendered.normals, rendered.opacity)}

    @torch.no_grad()
    def after_step(self, progress: Progress, generator: torch.Generator) -> None:
        """Limit the parameters to their ranges, move transparent splats, update the average."""
        splats, settings = self.splats, self.settings
        splats.limit(settings.max_scale)
        if self.ema_splats is not None:
            update_average(self.ema_splats, splats, settings.optimizer.ema, progress.step)
        every, done = settings.relocate_every, progress.step / progress.steps
        if every and (progress.step + 1) % every == 0 and _RELOCATED[0] < done < _RELOCATED[1]:
            # One number from the run's generator, however many splats are moved.
            seed = int(torch.randint(2**62, (), generator=generator))
            relocate(splats, self.optimizer, self.ema_splats, seed=seed)

    def surface(self, *, resolution: int = 128, threshold: float | None = None) -> Surface:
        """The surface where the density of the splats equals the threshold; None finds one whose
        silhouettes agree best with the images."""
        density = density_grid(self, resolution)
        if threshold is None:
            threshold = find_threshold(self, density)
        return extract_surface(density, threshold, SplatColors(self))

    def writers(self) -> Mapping[str, Callable[[Path | str], None]]:
        """Files of splats: see `files`."""
        return writers(self.splats, self.settings.blur)

    def about(self) -> list[str]:
        """The rasteriser in use, and installed ones that were skipped."""
        chosen = rasterizer_of(self.device)
        failed = skipped(RASTERIZING, "auto", self.device.type, chosen)
        return [f"backends  rasterization: {chosen}", *(f"          {each}" for each in failed)]


def smoothness(
    normals: Float[Tensor, "views h w 3"], opacity: Float[Tensor, "views h w"]
) -> Float[Tensor, ""]:
    """Penalises differences of the normals of neighbouring pixels that are both opaque: the mean of
    |n - n'|^2 over all pixels, for neighbours below and to the right. At most 8."""
    opaque = (opacity.detach() > 0.7).to(normals.dtype)
    below = (normals[:, 1:] - normals[:, :-1]).square().sum(-1) * opaque[:, 1:] * opaque[:, :-1]
    right = (normals[:, :, 1:] - normals[:, :, :-1]).square().sum(-1)
    return below.mean() + (right * opaque[:, :, 1:] * opaque[:, :, :-1]).mean()
