"""Measures meshes: components, genus, whether they are watertight, volume, cells inside."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Shift of the rays, to avoid vertices and edges, which are often at round numbers.
_SHIFT = np.array([1.7e-6, 2.3e-6, 0.0])


@dataclass(frozen=True)
class Topology:
    """vertices, faces: counts. components: number of connected components. watertight: every edge
    belongs to two faces of the same orientation. genus: total number of holes, or None if not
    watertight. volume: enclosed, cubic scene units (meaningful only if watertight). size: of the
    bounding box, (x, y, z), scene units.
    """

    vertices: int
    faces: int
    components: int
    watertight: bool
    genus: int | None
    volume: float
    size: tuple[float, float, float]


def topology(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Topology:
    """Measure a mesh with vertices (v, 3) and faces (f, 3), f > 0. Vertices at the same position,
    as along the seams of a texture, count as one."""
    import trimesh

    model = trimesh.Trimesh(vertices, faces, process=False)
    model.merge_vertices(merge_tex=True, merge_norm=True)
    labels = trimesh.graph.connected_component_labels(model.face_adjacency, node_count=len(faces))
    components = int(labels.max()) + 1
    watertight = bool(model.is_watertight and model.is_winding_consistent)
    a, b, c = np.moveaxis(model.triangles, 1, 0)
    x, y, z = model.extents.tolist()
    return Topology(
        vertices=len(vertices),
        faces=len(faces),
        components=components,
        watertight=watertight,
        # Euler: vertices - edges + faces = 2 (components - genus), for closed surfaces.
        genus=components - model.euler_number // 2 if watertight else None,
        volume=float((a * np.cross(b, c)).sum() / 6.0),
        size=(x, y, z),
    )


def voxelise(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], resolution: int
) -> NDArray[np.bool_]:
    """Mask (r, r, r), [x, y, z], of the cells of the box [-1, 1]^3 whose centre is inside.

    vertices: (v, 3). faces: (f, 3), counter-clockwise from outside. A point is inside if a ray from
    it along +z leaves the mesh more often than it enters. Duplicate vertices, as along the seams of
    a texture, and overlapping components are therefore permitted.
    """
    corners = ((vertices + 1.0) * (resolution / 2.0) - 0.5 + _SHIFT)[faces]  # in cells
    flat = corners[..., :2]
    low = np.ceil(flat.min(axis=1)).clip(0, resolution).astype(np.int64)
    high = np.floor(flat.max(axis=1)).clip(-1, resolution - 1).astype(np.int64)
    width, depth = (high - low + 1).clip(0).T
    # One row per face and ray within the bounds of the face.
    count = width * depth
    face = np.repeat(np.arange(len(faces)), count)
    index = np.arange(len(face)) - np.repeat(count.cumsum() - count, count)
    x, y = low[face, 0] + index // depth[face], low[face, 1] + index % depth[face]
    a, b, c = np.moveaxis(flat[face] - np.stack([x, y], axis=-1)[:, None], 1, 0)
    weights = np.stack([_cross(b, c), _cross(c, a), _cross(a, b)], axis=-1)
    area = weights.sum(axis=-1)  # twice the area; positive for faces towards +z
    crossed = (area != 0) & (weights * np.sign(area)[:, None] >= 0).all(axis=-1)
    weights, face, x, y = weights[crossed], face[crossed], x[crossed], y[crossed]
    z = (weights * corners[face, :, 2]).sum(axis=-1) / area[crossed]
    leaves = np.zeros((resolution, resolution, resolution + 1), dtype=np.int64)
    first_above = np.ceil(z).clip(0, resolution).astype(np.int64)
    np.add.at(leaves, (x, y, first_above), np.sign(area[crossed]).astype(np.int64))
    return leaves[..., ::-1].cumsum(axis=-1)[..., ::-1][..., 1:] > 0


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
