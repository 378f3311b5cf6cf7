"""From a field to a triangle mesh.

A mesh is in the scene's frame (+Y up, facing +Z), which is glTF's: nothing is converted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dreamfusion.config.schema import OutputConfig
from dreamfusion.graphics.cameras import generate_rays, turntable_cameras
from dreamfusion.scenes.nerf.ray_marching import march_rays
from dreamfusion.scenes.nerf.scene import Scene
from dreamfusion.scenes.nerf.volume import render_weights
from dreamfusion.utils.errors import UserError

# Smaller parts (in samples) that smoothing takes away stay away: specks and wisps, not thin parts.
_SPECK = 8
# Pieces smaller than this share of the largest are crumbs. Measured on 24 scenes: noise stays below
# 0.002, and what belongs to the object (the loose handle of a mug) begins at 0.02.
_CRUMB = 0.01
# How far the surface's volume stays from zero at samples.
_OFF_SAMPLES = 1e-3


class MeshError(UserError):
    """There is no mesh to be had, or no way to write it."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour at each vertex.

    vertices: (v, 3) float64, scene units. faces: (f, 3) int64, counter-clockwise from outside.
    colors: (v, 3) float64, sRGB in [0, 1].
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    colors: NDArray[np.float64]


@torch.no_grad()
def find_threshold(scene: Scene, *, size: int = 64) -> float:
    """The density whose surface has, from all around, the silhouette that the renders have.

    A ray meets the surface of threshold s just where the largest density along it exceeds s, so
    the agreement (intersection over union with opacity > 1/2, over 12 views of size^2 pixels)
    is known for every s at once. Of the thresholds within half a percent of the best, the middle
    one (in powers) is taken. Raises MeshError where no ray is opaque or a density is not finite.
    """
    largest, opaque = [], []
    device = scene.device
    for elevation_deg in (-25.0, 10.0, 50.0):
        cameras = turntable_cameras(4, elevation_deg=elevation_deg).to(device)
        samples = march_rays(
            generate_rays(cameras, size, size).flatten(),
            scene.occupancy,
            step=0.015,
            min_transmittance=0.0,
        )
        density = torch.cat([scene.field.density(p) for p in samples.positions.split(1 << 17)])
        if not bool(density.isfinite().all()):
            raise MeshError("the scene's density is not finite: the run has diverged")
        passed = render_weights(density, samples).final_transmittance
        peak = torch.zeros(samples.n_rays, device=device)
        largest.append(peak.scatter_reduce(0, samples.ray_index, density, "amax"))
        opaque.append(passed < 0.5)
    peaks, order = torch.cat(largest).sort(descending=True)
    inside = torch.cat(opaque)[order]
    if not bool(inside.any()):
        raise MeshError(
            "the scene is empty: nothing in it is opaque; train for more steps or with another seed"
        )
    # With the k rays of largest peak inside: hits of opaque rays, and the union's size.
    hits = inside.cumsum(0)
    agreement = hits / (torch.arange(1, len(peaks) + 1, device=device) + inside.sum() - hits)
    # The k-th threshold lies between the k-th and the next smaller peak.
    following = torch.cat([peaks[1:], peaks.new_zeros(1)])
    good = (agreement >= agreement.max() - 0.005) & (peaks > following)
    high, low = peaks[good].max(), following[good].min().clamp(min=float(peaks[0]) * 1e-6)
    return float((high * low).sqrt())


def extract_mesh(
    scene: Scene,
    *,
    resolution: int = OutputConfig.mesh_resolution,
    threshold: float | None = None,
    smoothing: float = 1.0,
) -> Mesh:
    """The surface of the scene's largest solid piece, and of others not much smaller, in colours.

    resolution: marching-cubes samples along each side of the box. threshold: density of the
    surface; found where None. smoothing: standard deviation of a blur before the
    surface is drawn, in samples; 0 for none. Crumbs (below a hundredth of the largest piece) are
    dropped and hollows filled. The mesh lies where the scene is. Raises MeshError rather than
    return nothing.
    """
    if resolution < 8:
        raise MeshError(f"a mesh needs a resolution of at least 8, not {resolution}")
    if threshold is None:
        threshold = find_threshold(scene)
    density = density_grid(scene, resolution)
    volume = solid_volume(density, threshold)
    mesh_vertices, faces = surface(volume, smoothing)
    vertices = (mesh_vertices + 0.5) * (2.0 / resolution) - 1.0
    normals = vertex_normals(vertices, faces)
    colors = surface_colors(scene, vertices, normals)
    return Mesh(vertices=vertices, faces=faces, colors=colors)


@torch.no_grad()
def density_grid(scene: Scene, resolution: int, *, chunk: int = 1 << 17) -> NDArray[np.float32]:
    """Density at the centres of resolution^3 cells of the box, [x, y, z]; 0 where unoccupied."""
    device = scene.device
    axis = (torch.arange(resolution, device=device) + 0.5) * (2.0 / resolution) - 1.0
    grid = torch.zeros(resolution**3, device=device)
    rows = torch.arange(resolution**3, device=device)
    for part in rows.split(chunk):
        points = torch.stack(
            [axis[part // resolution**2], axis[part // resolution % resolution],
             axis[part % resolution]], dim=-1,
        )  # fmt: skip
        occupied = scene.occupancy.is_occupied(points)
        if bool(occupied.any()):
            grid[part[occupied]] = scene.field.density(points[occupied])
    if not bool(grid.isfinite().all()):
        raise MeshError("the scene's density is not finite: the run has diverged")
    return grid.reshape(resolution, resolution, resolution).cpu().numpy()


def solid_volume(density: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """The volume whose zero level is the surface: density / threshold - 1, at most 1, positive
    inside the connected pieces that are no crumbs and their hollows, negative outside.

    Outside it is -1 and well inside 1, so that a blur leaves a flat surface where it was, however
    dense what is behind it.
    """
    from scipy import ndimage  # type: ignore[import-untyped]

    if threshold <= 0 or not np.isfinite(threshold):
        raise MeshError(f"the mesh's density threshold must be positive, not {threshold}")
    solid = density > threshold
    labels, n_pieces = ndimage.label(solid)
    if n_pieces == 0:
        raise MeshError(
            f"the mesh is empty: no density exceeds {threshold:.3g} (the largest is "
            f"{float(density.max()):.3g}); train for more steps or choose a lower threshold"
        )
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    pieces = (sizes >= _CRUMB * sizes.max())[labels]
    filled = ndimage.binary_fill_holes(pieces)
    volume = np.minimum(density.astype(np.float64) / threshold, 2.0) - 1.0
    # Crumbs become empty and hollows solid; what is near the surface keeps its value.
    volume = np.where(solid & ~pieces, -1.0, volume)
    return np.where(filled & ~pieces, 1.0, volume)


def surface(
    volume: NDArray[np.float64], smoothing: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Vertices (v, 3), in samples, and faces (f, 3) of the zero level's closed surfaces, outward,
    without crumbs and what bounds hollows."""
    import trimesh
    from scipy import ndimage
    from skimage.measure import marching_cubes

    # Empty layers around it close surfaces at the box's faces.
    padded = np.pad(volume, 2, constant_values=-1.0)
    if smoothing > 0:
        # Soft density is full of tunnels a sample or two wide.
        padded = ndimage.grey_closing(padded, size=3)
        smooth = ndimage.gaussian_filter(padded, smoothing, mode="nearest")
        lost = _lost(padded > 0, smooth > 0)
        if lost.any():  # what is too thin to survive the blur gets half of it
            thin = ndimage.gaussian_filter(padded, smoothing / 2, mode="nearest")
            smooth = np.where(lost, thin, smooth)
        padded = smooth if (smooth > 0).any() else padded
    # A level that runs through a sample would put several vertices at that place.
    padded = np.where(np.abs(padded) < _OFF_SAMPLES, _OFF_SAMPLES, padded)
    # "ascent" turns the faces outwards: the volume is positive inside.
    vertices, faces, _, _ = marching_cubes(padded, level=0.0, gradient_direction="ascent")
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(faces))
    a, b, c = np.moveaxis(mesh.triangles, 1, 0)
    # Six times the volume that each piece encloses; less than nothing around a hollow.
    enclosed = np.bincount(labels, (a * np.cross(b, c)).sum(axis=1))
    faces = faces[(enclosed >= _CRUMB * enclosed.max())[labels]]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used].astype(np.float64) - 2.0, faces.reshape(-1, 3).astype(np.int64)


def _lost(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where parts of solid samples have no solid sample left within two of them, and around
    there. Parts of fewer than `_SPECK` samples do not count."""
    from scipy import ndimage

    lost = before & ~ndimage.binary_dilation(after, iterations=2)
    labels, _ = ndimage.label(lost, np.ones((3, 3, 3)))
    large = np.bincount(labels.ravel()) >= _SPECK
    large[0] = False
    lost = large[labels]
    return ndimage.binary_dilation(lost, iterations=3) if lost.any() else lost


def vertex_normals(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Outward unit normals (v, 3), the mean of the adjacent faces' by area."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for column in range(3):
        np.add.at(normals, faces[:, column], face_normals)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return normals / np.maximum(length, 1e-12)


@torch.no_grad()
def surface_colors(
    scene: Scene,
    vertices: NDArray[np.float64],
    normals: NDArray[np.float64],
    *,
    reach: float = 0.06,
    n_samples: int = 9,
) -> NDArray[np.float64]:
    """What is seen looking straight at each vertex: albedo composited along its normal, (v, 3).

    The look starts half of `reach` (scene units) outside and ends one `reach` inside. A field
    learns colours where rays end, which need not be just where the mesh's surface is.
    """
    device = scene.device
    offsets = torch.linspace(0.5 * reach, -reach, n_samples, device=device)
    step = 1.5 * reach / (n_samples - 1)
    colors = []
    for start in range(0, len(vertices), 16384):
        part = slice(start, start + 16384)
        at = torch.as_tensor(vertices[part], dtype=torch.float32, device=device)
        along = torch.as_tensor(normals[part], dtype=torch.float32, device=device)
        points = (at[:, None] + offsets[:, None] * along[:, None]).clamp(-1.0, 1.0)
        out = scene.field(points.reshape(-1, 3))
        optical = out.density.reshape(-1, n_samples) * step
        before = torch.nn.functional.pad(optical.cumsum(dim=1)[:, :-1], (1, 0))
        # The small addend gives faint surfaces the plain mean.
        weights = torch.exp(-before) * -torch.expm1(-optical) + 1e-6
        albedo = out.albedo.reshape(-1, n_samples, 3)
        seen = (weights[..., None] * albedo).sum(dim=1) / weights.sum(dim=1, keepdim=True)
        colors.append(seen.clamp(0.0, 1.0).cpu())
    return torch.cat(colors).double().numpy()
