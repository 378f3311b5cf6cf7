"""Topology and size of a mesh: components, genus, whether it is watertight, volume."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
