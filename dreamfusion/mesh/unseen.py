"""Colours of surfaces that no camera sees: training does not determine them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.rasterize import rasterize
from dreamfusion.mesh.extract import ColorFunction, Mesh, vertex_normals
from dreamfusion.mesh.renderer import project

# A face seen at a flatter angle than this (the cosine to its normal) counts as unseen.
_GRAZING = 0.15
# Vertices whose colours make that of a point between them.
_NEIGHBOURS = 4


def fill_unseen(mesh: Mesh, color: ColorFunction, cameras: Cameras) -> tuple[Mesh, ColorFunction]:
    """The mesh and the colours of its surface; unseen parts get the colours around them.

    The mesh is dense, as from marching cubes. In an unseen part, each vertex gets the mean of its
    neighbours' colours (the harmonic function on the surface), which interpolates the colours of
    the border. A component that is entirely unseen keeps its colours.

    Args:
        mesh: with the colours that `color` gives at its vertices.
        color: of points on the surface; the result uses it for seen parts.
        cameras: those of training, or similar ones.
    """
    seen = seen_vertices(mesh, cameras)
    if seen.all() or not seen.any():
        return mesh, color
    edges = _edges(mesh)
    filled = _harmonic(mesh.colors, seen, edges)
    # Between a seen and an unseen vertex, the scene's colour is undefined.
    inner = seen & (edges @ ~seen == 0)
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    tree = cKDTree(mesh.vertices)
    normals = vertex_normals(mesh.vertices, mesh.faces)

    def with_filled(
        points: NDArray[np.float64], outward: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        distance, near = tree.query(points, k=_NEIGHBOURS)
        # Vertices on the other side of a thin wall have opposite normals.
        alike = np.einsum("pkc,pc->pk", normals[near], outward).clip(1e-3)
        weights = alike / (distance + 1e-6)
        weights /= weights.sum(axis=1, keepdims=True)
        share = (weights * inner[near]).sum(axis=1)[:, None]
        around = np.einsum("pk,pkc->pc", weights, filled[near])
        return share * color(points, outward) + (1.0 - share) * around

    return Mesh(mesh.vertices, mesh.faces, filled), with_filled


def seen_vertices(mesh: Mesh, cameras: Cameras, *, size: int = 256) -> NDArray[np.bool_]:
    """Mask (v,) of vertices of a face that is visible in an image of `size` pixels per side, not at
    a grazing angle."""
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    centers = corners.mean(axis=1)
    seen = np.zeros(len(mesh.vertices), dtype=bool)
    for i in range(len(cameras)):
        camera = cameras[i : i + 1].to("cpu")
        on_image, inverse_depth = project(mesh.vertices, camera, size, size)
        face_of, _ = rasterize(on_image[mesh.faces], inverse_depth[mesh.faces], size, size)
        shown = np.unique(face_of[face_of >= 0])
        towards = camera.positions[0].double().numpy() - centers[shown]
        cosine = (normals[shown] * towards).sum(axis=1) / np.linalg.norm(towards, axis=1)
        seen[mesh.faces[shown[cosine > _GRAZING]]] = True
    return seen


def _edges(mesh: Mesh) -> Any:
    """The sparse matrix (v, v) of ones where an edge joins two vertices."""
    from scipy import sparse  # type: ignore[import-untyped]

    n = len(mesh.vertices)
    one, other = mesh.faces[:, [0, 1, 2]].ravel(), mesh.faces[:, [1, 2, 0]].ravel()
    directed = sparse.coo_matrix((np.ones(len(one)), (one, other)), (n, n)).tocsr()
    return ((directed + directed.T) > 0).astype(np.float64)


def _harmonic(
    colors: NDArray[np.float64], seen: NDArray[np.bool_], edges: Any
) -> NDArray[np.float64]:
    """Colours (v, 3), those of unseen vertices filled in."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
    from scipy.sparse.linalg import splu  # type: ignore[import-untyped]

    _, part = connected_components(edges, directed=False)
    unknown = ~seen & (np.bincount(part, seen)[part] > 0)
    colors = colors.copy()
    if unknown.any():
        rows = edges[unknown]
        laplacian = sparse.diags(np.asarray(rows.sum(axis=1)).ravel()) - rows[:, unknown]
        colors[unknown] = splu(laplacian.tocsc()).solve(rows[:, seen] @ colors[seen]).clip(0.0, 1.0)
    return colors
