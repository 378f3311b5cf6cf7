"""Extracts a triangle mesh from a density on a grid.

Meshes are in the scene's frame (+Y up, facing +Z), which is also glTF's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamfusion.utils.errors import UserError

# Points and outward normals (m, 3) to sRGB colours (m, 3).
ColorFunction = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]

# Parts below this size (in samples) that smoothing removes are noise, and are not restored.
_SPECK = 8
# Connected components smaller than this share of the largest are dropped. Measured on 24 scenes:
# noise is below 0.002, parts of the object (such as the detached handle of a mug) above 0.02.
_SMALL_COMPONENT = 0.01
# Minimum absolute value of the volume at samples.
_OFF_SAMPLES = 1e-3


class MeshError(UserError):
    """A mesh that cannot be made, read or written."""


@dataclass(frozen=True)
class Mesh:
    """Triangles with a colour at each vertex.

    vertices: (v, 3) float64, scene units. faces: (f, 3) int64, counter-clockwise from outside.
    colors: (v, 3) float64, sRGB in [0, 1].
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    colors: NDArray[np.float64]

    @property
    def normals(self) -> NDArray[np.float64]:
        """Unit vertex normals (v, 3), outward."""
        return vertex_normals(self.vertices, self.faces)


@dataclass(frozen=True)
class Surface:
    """A closed triangle mesh, and the colour of any point on it.

    vertices: (v, 3) float64, scene units. faces: (f, 3) int64, counter-clockwise from outside.
    color: see `ColorFunction`. threshold: the density of the surface, if there is one.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    color: ColorFunction
    threshold: float | None = None

    def colored(self) -> Mesh:
        """The mesh with vertex colours."""
        normals = vertex_normals(self.vertices, self.faces)
        return Mesh(self.vertices, self.faces, self.color(self.vertices, normals))


def extract_surface(
    density: NDArray[np.float32], threshold: float, color: ColorFunction, *, smoothing: float = 1.0
) -> Surface:
    """Extract the surface of a density. Components below a hundredth of the largest are dropped,
    and cavities are filled.

    density: (r, r, r), [x, y, z], at the centres of the cells of the box [-1, 1]^3. threshold:
    density of the surface. color: of points on the surface. smoothing: standard deviation of a
    Gaussian blur of the density, in samples; 0 for none. Raises MeshError for an empty surface.
    """
    resolution = len(density)
    if resolution < 8:
        raise MeshError(f"a mesh needs a resolution of at least 8, not {resolution}")
    if not bool(np.isfinite(density).all()):
        raise MeshError("the scene's density is not finite: the run has diverged")
    volume = solid_volume(density, threshold)
    vertices, faces = isosurface(volume, smoothing)
    return Surface((vertices + 0.5) * (2.0 / resolution) - 1.0, faces, color, threshold)


def silhouette_threshold(largest: Tensor, opaque: Tensor) -> float:
    """The density threshold whose surface has given silhouettes.

    largest: the largest density along each of many rays. opaque: whether each ray hits the object.
    A ray meets the surface of threshold s if its largest density exceeds s, so the agreement
    (intersection over union) can be computed for all s at once. The result is the geometric mean of
    the ends of the range of thresholds within half a percent of the best. Raises MeshError if no
    ray is opaque.
    """
    peaks, order = largest.sort(descending=True)
    inside = opaque[order]
    if not bool(inside.any()):
        raise MeshError(
            "the scene is empty: nothing in it is opaque; train for more steps or with another seed"
        )
    # If the k rays with the largest peaks are inside: the intersection, and its share of the union.
    hits = inside.cumsum(0)
    agreement = hits / (torch.arange(1, len(peaks) + 1, device=peaks.device) + inside.sum() - hits)
    # The k-th threshold lies between the k-th and the next smaller peak.
    smaller = torch.cat([peaks[1:], peaks.new_zeros(1)])
    good = (agreement >= agreement.max() - 0.005) & (peaks > smaller)
    high, low = peaks[good].max(), smaller[good].min().clamp(min=float(peaks[0]) * 1e-6)
    return float((high * low).sqrt())


def solid_volume(density: NDArray[np.float32], threshold: float) -> NDArray[np.float64]:
    """A volume whose zero level is the surface: density / threshold - 1, at most 1, positive inside
    the connected components that are kept and their cavities, negative outside.

    Its range is [-1, 1], so that a blur does not move a flat surface, however high the density
    behind it. Raises MeshError if it is empty.
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
    pieces = (sizes >= _SMALL_COMPONENT * sizes.max())[labels]
    filled = ndimage.binary_fill_holes(pieces)
    volume = np.minimum(density.astype(np.float64) / threshold, 2.0) - 1.0
    # Clear small components and fill cavities; other values near the surface are unchanged.
    volume = np.where(solid & ~pieces, -1.0, volume)
    return np.where(filled & ~pieces, 1.0, volume)


def isosurface(
    volume: NDArray[np.float64], smoothing: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Extract the closed surfaces of the zero level: vertices (v, 3), in samples, and outward faces
    (f, 3). Small components and the surfaces of cavities are dropped."""
    import trimesh
    from scipy import ndimage
    from skimage.measure import marching_cubes

    # Empty layers around the volume close surfaces at the sides of the box.
    padded = np.pad(volume, 2, constant_values=-1.0)
    if smoothing > 0:
        # Soft density contains many tunnels that are a sample or two wide.
        padded = ndimage.grey_closing(padded, size=3)
        smooth = ndimage.gaussian_filter(padded, smoothing, mode="nearest")
        lost = _lost(padded > 0, smooth > 0)
        if lost.any():  # use half the blur for parts that are too thin for it
            thin = ndimage.gaussian_filter(padded, smoothing / 2, mode="nearest")
            smooth = np.where(lost, thin, smooth)
        padded = smooth if (smooth > 0).any() else padded
    # A level that passes through a sample would create several vertices at the same position.
    padded = np.where(np.abs(padded) < _OFF_SAMPLES, _OFF_SAMPLES, padded)
    # The volume is positive inside, so "ascent" orients the faces outwards.
    vertices, faces, _, _ = marching_cubes(padded, level=0.0, gradient_direction="ascent")
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(faces))
    a, b, c = np.moveaxis(mesh.triangles, 1, 0)
    # Six times the volume that each component encloses; negative around a cavity.
    enclosed = np.bincount(labels, (a * np.cross(b, c)).sum(axis=1))
    faces = faces[(enclosed >= _SMALL_COMPONENT * enclosed.max())[labels]]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used].astype(np.float64) - 2.0, faces.reshape(-1, 3).astype(np.int64)


def _lost(before: NDArray[np.bool_], after: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask of thin parts and their neighbourhood: solid samples that have no solid sample within
    two samples after smoothing. Parts of fewer than `_SPECK` samples are ignored."""
    from scipy import ndimage

    lost = before & ~ndimage.binary_dilation(after, iterations=2)
    labels, _ = ndimage.label(lost, np.ones((3, 3, 3)))
    large = np.bincount(labels.ravel()) >= _SPECK
    large[0] = False
    lost = large[labels]
    return ndimage.binary_dilation(lost, iterations=3) if lost.any() else lost


def vertex_normals(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Outward unit normals (v, 3): means of the adjacent faces' normals, weighted by area."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for column in range(3):
        np.add.at(normals, faces[:, column], face_normals)
    return unit(normals)


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors (n, 3) scaled to unit length; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
