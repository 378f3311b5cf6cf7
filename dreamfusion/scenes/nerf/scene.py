"""A radiance field as a scene: field, occupancy grid, background, their optimiser and average."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dreamfusion.graphics.cameras import Rays, generate_rays
from dreamfusion.mesh.extract import Surface, extract_surface
from dreamfusion.scenes.base import Rendered, Scene, Views, adam, update_average
from dreamfusion.scenes.nerf.background import LearnedBackground
from dreamfusion.scenes.nerf.field import Field
from dreamfusion.scenes.nerf.hashgrid import ENCODING, encoding_backend
from dreamfusion.scenes.nerf.losses import orientation_loss, sampled_smoothness, sparsity_loss
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching import MARCHING
from dreamfusion.scenes.nerf.renderer import RenderOutput, render
from dreamfusion.scenes.nerf.settings import NerfSettings
from dreamfusion.scenes.nerf.surface import density_grid, find_threshold, surface_colors
from dreamfusion.scenes.nerf.volume import COMPOSITING, compositing_backend
from dreamfusion.utils.backends import Operation, choose, skipped
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress
from dreamfusion.utils.threads import fixed_order

_RAYS_PER_CHUNK = 32768  # without gradients
# The operations that accelerators support.
OPERATIONS: tuple[Operation, ...] = (ENCODING, MARCHING, COMPOSITING)


@dataclass(frozen=True)
class Backends:
    """The backends of a run on its device: names of accelerators, or "reference" for plain torch.
    skipped: one line for each installed accelerator that failed its test."""

    encoding: str
    marching: str
    compositing: str
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        parts = {part: getattr(self, part) for part in ("encoding", "marching", "compositing")}
        return ", ".join(
            f"{part}: {'torch' if name == 'reference' else name}" for part, name in parts.items()
        )


def chosen_backends(settings: NerfSettings, device: str) -> Backends:
    """The backends of a run with these settings on `device` ("cpu", "cuda", "cuda:N", "mps").

    Raises AcceleratorError if the settings name an accelerator that cannot be used.
    """
    kind, field, on_rays = torch.device(device).type, settings.field, settings.marching.backend
    encoding = encoding_backend(field.backend, kind, field.features)
    marching = choose(MARCHING, on_rays, kind)
    compositing = compositing_backend(on_rays, kind)
    failed = skipped(ENCODING, field.backend, kind, encoding)
    failed += skipped(MARCHING, on_rays, kind, marching)
    return Backends(encoding, marching, compositing, failed)


class NerfScene(nn.Module, Scene):
    """A radiance field in the box [-1, 1]^3, its occupancy grid, and its background, which training
    may replace by plain colours. All on one device.

    generator: draws the initial values, on the CPU. start: a scene of the same kind and layout,
    whose averaged field, occupancy and background initialise this one. Raises AcceleratorError if
    the settings name a backend that cannot be used, UserError for an incompatible start.
    """

    def __init__(
        self,
        settings: NerfSettings,
        *,
        device: str = "cpu",
        generator: torch.Generator,
        start: Scene | None = None,
    ) -> None:
        super().__init__()
        backends = chosen_backends(settings, device)
        self.settings, self._backends = settings, backends
        self.field = Field(settings.field, generator=generator).to(device)
        self.background = LearnedBackground(generator=generator).to(device)
        cells = settings.occupancy
        self.occupancy = OccupancyGrid(
            resolution=cells.resolution, threshold=cells.threshold, decay=cells.decay
        ).to(device)
        self.step_size = settings.marching.step_size.start
        if start is not None:
            self._begin_with(start.averaged)
        with fixed_order():
            self.occupancy.update(self.field.density, generator)
        rates = settings.optimizer
        groups = [
            (self.field.encoding.parameters(), rates.grid_lr),
            (self.field.mlp.parameters(), rates.network_lr),
            (self.background.parameters(), rates.background_lr),
        ]
        self.optimizer = adam(groups, rates, device)
        average = copy.deepcopy(self.field).requires_grad_(False) if rates.ema > 0 else None
        self.ema_field: Field | None = average

    def _begin_with(self, start: Scene) -> None:
        if not isinstance(start, NerfScene):
            raise UserError(
                f"the scene 'nerf' cannot start from a {type(start).__name__}: give the run it "
                "starts from the same scene.name"
            )
        try:
            for part in ("field", "background", "occupancy"):
                getattr(self, part).load_state_dict(getattr(start, part).state_dict())
        except RuntimeError:
            raise UserError(
                "the scene that the run starts from has another size: give both the same "
                "scene.field and scene.occupancy"
            ) from None

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.occupancy.density.device

    @property
    def averaged(self) -> NerfScene:
        """The scene with the averaged field in place of the trained one."""
        if self.ema_field is None:
            return self
        shown = copy.copy(self)
        shown._modules = {**self._modules, "field": self.ema_field, "ema_field": None}
        return shown

    def before_step(self, progress: Progress, generator: torch.Generator) -> None:
        """Apply the schedules of field and samples; at intervals, update the occupancy grid."""
        settings = self.settings
        self.step_size = settings.marching.step_size.at(*progress)
        for field in (self.field, self.ema_field):
            if field is not None:
                field.activate_levels(settings.field.active_levels.at(*progress))
                field.sharpen(settings.field.sharpness.at(*progress))
        if progress.step % settings.occupancy.update_every == 0 and progress.step > 0:
            self.occupancy.update(self.field.density, generator)

    def render(self, views: Views, generator: Generators | None = None) -> Rendered:
        """See `Scene.render`. With a generator, the distance of samples is that of the current
        training step, else that of the end of a run."""
        local = views.to(self.device)
        rays = generate_rays(local.cameras, views.height, views.width)
        n_rays = rays.origins.shape[:-1].numel()
        if torch.is_grad_enabled() or generator is not None or n_rays <= _RAYS_PER_CHUNK:
            return self._draw(rays, local, generator)
        return self._in_chunks(rays, local)

    def _draw(self, rays: Rays, views: Views, generator: Generators | None = None) -> RenderOutput:
        return render(
            self,
            rays,
            background=self.background if views.background is None else views.background,
            lighting=views.lighting,
            with_normals=views.normals,
            generator=generator,
            options=self.settings.marching,
            step_size=None if generator is None else self.step_size,
        )

    def _in_chunks(self, rays: Rays, views: Views) -> Rendered:
        """Render without gradients, view by view in pieces of so many rays."""
        n, height, width = rays.origins.shape[:-1]
        parts: list[tuple[Tensor, ...]] = []
        for i in range(n):
            flat = Rays(rays.origins[i], rays.directions[i]).flatten()
            pieces = (v.split(_RAYS_PER_CHUNK) for v in (flat.origins, flat.directions))
            for origins, directions in zip(*pieces, strict=True):
                out = self._draw(Rays(origins[None], directions[None]), views[i : i + 1])
                found = (out.rgb, out.opacity, out.depth)
                parts.append(found if out.normals is None else (*found, out.normals))
        rgb, opacity, depth, *normals = (
            torch.cat([p[0] for p in column]).reshape(n, height, width, *column[0].shape[2:])
            for column in zip(*parts, strict=True)
        )
        return Rendered(rgb, opacity, depth, normals[0] if normals else None)

    def regularisers(
        self, rendered: Rendered, progress: Progress, generator: torch.Generator
    ) -> Mapping[str, Float[Tensor, ""]]:
        """Sparsity, orientation, smoothness, as the settings weigh them. Terms of weight 0 are not
        computed, nor are terms of normals if the rendering has none."""
        assert isinstance(rendered, RenderOutput)  # not rendered in chunks
        weights, n_rays = self.settings.losses, rendered.opacity.numel()
        terms: dict[str, Tensor] = {}
        if (weight := weights.sparsity.at(*progress)) > 0:
            terms["sparsity"] = weight * sparsity_loss(rendered.density, n_rays=n_rays)
        if (surface := rendered.surface) is None:
            return terms
        if (weight := weights.orientation.at(*progress)) > 0:
            terms["orientation"] = weight * orientation_loss(
                surface.weights, surface.normals, surface.directions, n_rays=n_rays
            )
        if (weight := weights.smoothness.at(*progress)) > 0:
            terms["smoothness"] = weight * sampled_smoothness(self.field, rendered, generator)
        return terms

    @torch.no_grad()
    def after_step(self, progress: Progress, generator: torch.Generator) -> None:
        if self.ema_field is not None:
            update_average(self.ema_field, self.field, self.settings.optimizer.ema, progress.step)

    def surface(self, *, resolution: int = 128, threshold: float | None = None) -> Surface:
        """The surface where density equals the threshold; None finds one from silhouettes."""
        if threshold is None:
            threshold = find_threshold(self)
        density = density_grid(self, resolution)
        return extract_surface(density, threshold, partial(surface_colors, self))

    def about(self) -> list[str]:
        """The backends in use, and installed ones that were skipped."""
        skipped = [f"          {problem}" for problem in self._backends.skipped]
        return [f"backends  {self._backends}", *skipped]
