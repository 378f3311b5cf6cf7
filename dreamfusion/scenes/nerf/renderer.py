"""Renders pixels from a scene and rays. Free functions without state."""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamfusion.graphics.cameras import Rays
from dreamfusion.graphics.shading import Lighting, lambertian
from dreamfusion.scenes.base import Rendered
from dreamfusion.scenes.nerf.background import Background, background_color, per_ray
from dreamfusion.scenes.nerf.field import FieldOutput
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching import Samples, march_rays
from dreamfusion.scenes.nerf.settings import MarchingConfig
from dreamfusion.scenes.nerf.volume import accumulate, render_weights
from dreamfusion.utils.rng import Generators


class RadianceField(Protocol):
    """Interface that rendering and meshing require from a field."""

    def __call__(self, points: Float[Tensor, "n 3"]) -> FieldOutput: ...

    def density(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]: ...

    def normals(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]: ...


class VolumeScene(Protocol):
    """Interface that rendering and meshing require from a scene; all parts are on one device."""

    @property
    def field(self) -> RadianceField: ...

    @property
    def occupancy(self) -> OccupancyGrid: ...

    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True)
class SurfaceSamples:
    """The samples with a normal: those that contribute to their pixel.

    index: into the rendered samples. normals, directions (of view): unit; see
    `losses.orientation_loss`.
    """

    index: Int64[Tensor, " n"]
    weights: Float[Tensor, " n"]
    normals: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]


@dataclass(frozen=True, kw_only=True)
class RenderOutput(Rendered):
    """Pixels of rays of any batch shape, usually (views, height, width), and their samples.

    rgb: in [0, 1], background included. depth: mean distance of visible samples along the ray, 0
    if there are none. normals: composited, world frame; None if not needed. samples: the rendered
    samples; density, weights: of the samples. surface: normals at samples, or None.
    """

    rgb: Float[Tensor, "*rays 3"]
    opacity: Float[Tensor, "*rays"]
    depth: Float[Tensor, "*rays"]
    normals: Float[Tensor, "*rays 3"] | None
    samples: Samples
    density: Float[Tensor, " n"]
    weights: Float[Tensor, " n"]
    surface: SurfaceSamples | None


def render(
    scene: VolumeScene,
    rays: Rays,
    *,
    background: Background,
    lighting: Lighting | None = None,
    with_normals: bool = False,
    generator: Generators | None = None,
    options: MarchingConfig | None = None,
    step_size: float | None = None,
    min_weight: float = 0.02,
) -> RenderOutput:
    """Render rays of batch shape (views, ...) or (views,); differentiable in field and background.

    background: see `LearnedBackground`. lighting: None is unlit. with_normals: composite normals
    for "albedo", too. generator: jitters the samples, or one for each view; None puts them in the
    middle of their steps.
    options: distance of samples, the transmittance at which rays end, the weight from which samples
    have a normal, and the backends: see `march_rays` and `render_weights`; None is the defaults.
    step_size: distance of samples; None is the one of the end of a run.
    min_weight: with gradients enabled, samples of less weight per scene unit are skipped. They are
    the majority of samples and contribute almost nothing to the image, but cost as much as others.
    """
    lighting = Lighting() if lighting is None else lighting
    options = MarchingConfig() if options is None else options
    step_size = options.step_size.end if step_size is None else step_size
    field, shading = scene.field, lighting.shading
    batch, n_views = rays.origins.shape[:-1], rays.origins.shape[0]
    flat = rays.flatten()
    samples = march_rays(
        flat,
        scene.occupancy,
        step=step_size,
        min_transmittance=options.min_transmittance,
        generator=generator,
        backend=options.backend,
    )
    if torch.is_grad_enabled():
        samples = _visible(field, samples, min_weight * step_size, options)
    output = field(samples.positions)
    ray_weights = render_weights(output.density, samples, backend=options.backend)
    weights = ray_weights.weights

    surface = normals = None
    color = output.albedo
    if shading != "albedo" or with_normals:
        least = options.min_normal_weight * step_size
        surface = _surface_samples(field, samples, weights, flat.directions, least)
        picked = samples.ray_index[surface.index]
        normals = weights.new_zeros(samples.n_rays, 3).index_add(
            0, picked, surface.weights[:, None] * surface.normals
        )
    if shading != "albedo" and surface is not None:
        shade = _shade(samples, surface, lighting, n_views)
        color = shade[:, None] * (color if shading == "lambertian" else torch.ones_like(color))

    transmittance = ray_weights.final_transmittance
    opacity = 1.0 - transmittance
    behind = background_color(background, flat.directions, n_views)
    rgb = accumulate(weights, color, samples) + transmittance[:, None] * behind
    distance = accumulate(weights, samples.t[:, None], samples)[:, 0]
    depth = distance / opacity.clamp(min=1e-6)
    return RenderOutput(
        rgb=rgb.reshape(*batch, 3),
        opacity=opacity.reshape(batch),
        depth=depth.reshape(batch),
        normals=None if normals is None else normals.reshape(*batch, 3),
        samples=samples,
        density=output.density,
        weights=weights,
        surface=surface,
    )


@torch.no_grad()
def _visible(
    field: RadianceField, samples: Samples, min_weight: float, options: MarchingConfig
) -> Samples:
    density = field.density(samples.positions)
    weights = render_weights(density, samples, backend=options.backend).weights
    return samples.select(~(weights < min_weight))  # keeps non-finite values


def _surface_samples(
    field: RadianceField,
    samples: Samples,
    weights: Float[Tensor, " n"],
    directions: Float[Tensor, "rays 3"],
    min_weight: float,
) -> SurfaceSamples:
    index = (~(weights.detach() < min_weight)).nonzero()[:, 0]
    return SurfaceSamples(
        index=index,
        weights=weights.index_select(0, index),
        normals=field.normals(samples.positions[index]),
        directions=directions[samples.ray_index[index]],
    )


def _shade(
    samples: Samples, surface: SurfaceSamples, lighting: Lighting, n_views: int
) -> Float[Tensor, " n"]:
    """Shade of each sample; samples without a normal have the mean shade of the ray's others."""
    assert lighting.position is not None  # see Lighting
    light = per_ray("light's position", lighting.position, n_views, samples.n_rays)
    ambient = lighting.ambient
    picked = samples.ray_index[surface.index]
    positions = samples.positions[surface.index]
    shade = lambertian(surface.normals, positions, light[picked], ambient=ambient)
    weights = surface.weights.detach()
    total = weights.new_zeros(samples.n_rays).index_add(0, picked, weights)
    summed = shade.new_zeros(samples.n_rays).index_add(0, picked, weights * shade)
    # Rays without normals are shaded as if half facing the light.
    mean = torch.where(total > 0, summed / total.clamp(min=1e-6), ambient + (1.0 - ambient) / 2)
    # Not mean[ray_index]: on a CPU, its backward adds in parallel, in an undefined order.
    return mean.index_select(0, samples.ray_index).index_copy(0, surface.index, shade)
