"""Fills in colours of surfaces that no camera sees, which training does not determine."""

import numpy as np
import torch
from numpy.typing import NDArray

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.graphics.triangles import project, rasterize
from dreamfusion.mesh.extract import ColorFunction, Mesh, unit

# A face counts as unseen if the cosine between its normal and the view direction is smaller.
GRAZING = 0.15
# Number of nearest vertices whose colours are interpolated.
_NEIGHBOURS = 4


def fill_unseen(mesh: Mesh, color: ColorFunction, cameras: Cameras) -> tuple[Mesh, ColorFunction]:
    """Fill in the colours of unseen parts of a mesh; returns the mesh and its colour function.

    In an unseen part, each vertex gets the mean of its neighbours' colours (the harmonic function
    on the surface), which interpolates the colours of the border. A component that is entirely
    unseen keeps its colours.

    mesh: dense, as from marching cubes, with the colours of `color` at its vertices. color: of
    points on the surface; also used in the result, for seen parts. cameras: as in training.
    """
    seen = seen_vertices(mesh, cameras)
    if seen.all() or not seen.any():
        return mesh, color
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    filled, inner = spread_colors(mesh, seen)
    tree = cKDTree(mesh.vertices)
    normals = mesh.normals

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


def spread_colors(
    mesh: Mesh, seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The colours (v, 3) of a mesh's vertices, filled in where they were not seen, and a mask (v,)
    of the vertices that were seen, with all their neighbours: next to others, the scene's colour
    is not reliable."""
    from scipy import sparse  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]
    from scipy.sparse.linalg import splu  # type: ignore[import-untyped]

    n = len(mesh.vertices)
    start, end = mesh.faces[:, [0, 1, 2]].ravel(), mesh.faces[:, [1, 2, 0]].ravel()
    directed = sparse.coo_matrix((np.ones(len(start)), (start, end)), (n, n)).tocsr()
    edges = ((directed + directed.T) > 0).astype(np.float64)  # the adjacency matrix
    _, part = connected_components(edges, directed=False)
    unknown = ~seen & (np.bincount(part, seen)[part] > 0)
    colors = mesh.colors.copy()
    if unknown.any():
        rows = edges[unknown]
        laplacian = sparse.diags(np.asarray(rows.sum(axis=1)).ravel()) - rows[:, unknown]
        colors[unknown] = splu(laplacian.tocsc()).solve(rows[:, seen] @ colors[seen]).clip(0.0, 1.0)
    return colors, seen & (edges @ ~seen == 0)


def seen_vertices(mesh: Mesh, cameras: Cameras, *, size: int = 256) -> NDArray[np.bool_]:
    """Mask (v,) of the vertices of faces that are visible from a camera, but not at a grazing
    angle. size: height and width of the images to test, pixels."""
    corners = mesh.vertices[mesh.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = unit(normals)
    centers = corners.mean(axis=1)
    vertices, faces = torch.tensor(mesh.vertices), torch.tensor(mesh.faces)
    seen = np.zeros(len(mesh.vertices), dtype=bool)
    for i in range(len(cameras)):
        camera = cameras[i : i + 1].to("cpu")
        points = project(vertices, camera, size, size)
        face_of = rasterize(points, faces, size, size).face_of
        shown = face_of[face_of >= 0].unique().numpy()
        towards = camera.positions[0].double().numpy() - centers[shown]
        cosine = (normals[shown] * towards).sum(axis=1) / np.linalg.norm(towards, axis=1)
        seen[mesh.faces[shown[cosine > GRAZING]]] = True
    return seen
