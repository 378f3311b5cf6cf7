"""The surface of a radiance field: its density threshold, and the colours of its vertices."""

import numpy as np
import torch
from jaxtyping import Float32, Float64

from dreamfusion.graphics.cameras import generate_rays, turntable_cameras
from dreamfusion.mesh.extract import MeshError, silhouette_threshold
from dreamfusion.scenes.nerf.ray_marching import march_rays
from dreamfusion.scenes.nerf.renderer import VolumeScene
from dreamfusion.scenes.nerf.volume import render_weights


@torch.no_grad()
def find_threshold(scene: VolumeScene, *, size: int = 64) -> float:
    """The density threshold whose surface has the same silhouettes as the renderings.

    See `silhouette_threshold`; 12 views of size^2 pixels. Raises MeshError if no ray is opaque or a
    density is not finite.
    """
    largest, opaque = [], []
    device = scene.device
    for elevation_deg in (-25.0, 10.0, 50.0):
        cameras = turntable_cameras(4, elevation_deg=elevation_deg).to(device)
        rays = generate_rays(cameras, size, size).flatten()
        samples = march_rays(rays, scene.occupancy, step=0.015, min_transmittance=0.0)
        density = torch.cat([scene.field.density(p) for p in samples.positions.split(1 << 17)])
        if not bool(density.isfinite().all()):
            raise MeshError("the scene's density is not finite: the run has diverged")
        transmittance = render_weights(density, samples).final_transmittance
        peak = torch.zeros(samples.n_rays, device=device)
        largest.append(peak.scatter_reduce(0, samples.ray_index, density, "amax"))
        opaque.append(transmittance < 0.5)
    return silhouette_threshold(torch.cat(largest), torch.cat(opaque))


@torch.no_grad()
def density_grid(
    scene: VolumeScene, resolution: int, *, chunk: int = 1 << 17
) -> Float32[np.ndarray, "{resolution} {resolution} {resolution}"]:
    """Density at the centres of resolution^3 cells of the box, [x, y, z]; 0 where unoccupied."""
    device = scene.device
    axis = (torch.arange(resolution, device=device) + 0.5) * (2.0 / resolution) - 1.0
    grid = torch.zeros(resolution**3, device=device)
    rows = torch.arange(resolution**3, device=device)
    for part in rows.split(chunk):
        points = axis[torch.stack(torch.unravel_index(part, (resolution,) * 3), dim=-1)]
        occupied = scene.occupancy.is_occupied(points)
        if bool(occupied.any()):
            grid[part[occupied]] = scene.field.density(points[occupied])
    if not bool(grid.isfinite().all()):
        raise MeshError("the scene's density is not finite: the run has diverged")
    return grid.reshape(resolution, resolution, resolution).cpu().numpy()


@torch.no_grad()
def surface_colors(
    scene: VolumeScene,
    vertices: Float64[np.ndarray, "vertices 3"],
    normals: Float64[np.ndarray, "vertices 3"],
    *,
    reach: float = 0.06,
    n_samples: int = 9,
) -> Float64[np.ndarray, "vertices 3"]:
    """The colours that a camera facing each vertex sees: albedo composited along its normal.

    The ray starts half of `reach` (scene units) outside and ends one `reach` inside. A field learns
    colours where rays end, which need not be exactly at the surface of the mesh.
    """
    device = scene.device
    offsets = torch.linspace(0.5 * reach, -reach, n_samples, device=device)
    step = 1.5 * reach / (n_samples - 1)
    colors = []
    for start in range(0, len(vertices), 16384):
        part = slice(start, start + 16384)
        centre = torch.as_tensor(vertices[part], dtype=torch.float32, device=device)
        normal = torch.as_tensor(normals[part], dtype=torch.float32, device=device)
        points = (centre[:, None] + offsets[:, None] * normal[:, None]).clamp(-1.0, 1.0)
        out = scene.field(points.reshape(-1, 3))
        optical = out.density.reshape(-1, n_samples) * step
        before = torch.nn.functional.pad(optical.cumsum(dim=1)[:, :-1], (1, 0))
        # The small constant gives faint surfaces the unweighted mean.
        weights = torch.exp(-before) * -torch.expm1(-optical) + 1e-6
        albedo = out.albedo.reshape(-1, n_samples, 3)
        seen = (weights[..., None] * albedo).sum(dim=1) / weights.sum(dim=1, keepdim=True)
        colors.append(seen.clamp(0.0, 1.0).cpu())
    return torch.cat(colors).double().numpy()
