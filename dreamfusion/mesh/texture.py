"""From a coloured mesh to one with a texture: fewer faces, a flat map of them, albedo baked on it.

Texture coordinates are (u, v) in [0, 1], v up: (0, 0) is the lower left corner of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamfusion.config.schema import OutputConfig
from dreamfusion.graphics.rasterize import rasterize
from dreamfusion.mesh.extract import ColorFunction, Mesh, MeshError, vertex_normals

# Aggressiveness of edge collapse (the last may leave many faces): if one value pinches a mesh,
# another may not.
HASTE = (7, 5, 3, 2)
FEWEST = 100  # faces that `simplify` leaves at least
_PADDING = 4  # texels around each chart, so that no seam shows when the texture is made smaller


@dataclass(frozen=True)
class TexturedMesh:
    """Triangles with a texture.

    vertices: (v, 3) float64, scene units; those on a seam occur once for each chart. faces: (f, 3)
    int64, counter-clockwise from outside. normals: (v, 3), unit, smooth across seams. uv: (v, 2).
    texture: (size, size, 3) sRGB bytes, without light, top row first.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    normals: NDArray[np.float64]
    uv: NDArray[np.float64]
    texture: NDArray[np.uint8]


def smooth_normals(mesh: Mesh | TexturedMesh) -> NDArray[np.float64]:
    """Unit normals (v, 3) at the vertices: a textured mesh has its own, smooth across seams."""
    if isinstance(mesh, TexturedMesh):
        return mesh.normals
    return vertex_normals(mesh.vertices, mesh.faces)


def decimate(mesh: Mesh, n_faces: int) -> Mesh:
    """A mesh of at most about `n_faces` faces by quadric edge collapse; the same if it has fewer.

    Colours are those of the nearest original vertex. Collapsing can pinch two sheets together,
    which opens a closed mesh; it is then repeated less aggressively, and if that does not help, the
    sheets meet in a point.
    """
    if n_faces < 4:
        raise MeshError(f"a mesh needs at least 4 faces, not {n_faces}")
    if len(mesh.faces) <= n_faces:
        return mesh
    import fast_simplification
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    before = mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)
    found = []
    for haste in HASTE:
        vertices, faces = fast_simplification.simplify(*before, target_count=n_faces, agg=haste)
        found.append((vertices, faces))
        if len(faces) <= n_faces and not len(_pinched(faces)):
            break
    else:
        vertices, faces = _unpinched(*found[0])
    nearest = cKDTree(mesh.vertices).query(vertices)[1]
    return Mesh(vertices.astype(np.float64), faces.astype(np.int64), mesh.colors[nearest])


def simplify(mesh: Mesh, *, most: int, tolerance: float) -> Mesh:
    """The mesh with as few faces as keep it within `tolerance` (scene units) of the original, and
    at most about `most`.

    The number is halved until the tolerance is exceeded; see `deviation`.
    """
    best = decimate(mesh, most)
    while len(best.faces) >= 2 * FEWEST:
        fewer = decimate(best, len(best.faces) // 2)
        if len(fewer.faces) > 0.9 * len(best.faces) or deviation(fewer, mesh) > tolerance:
            break
        best = fewer
    return best


def deviation(mesh: Mesh, original: Mesh, *, n_samples: int = 20_000, share: float = 0.99) -> float:
    """The distance of two surfaces in scene units: `share` of the points of each are at most this
    far from the other.

    Points are the vertices of `original`, dense as marching cubes makes them, and as many as
    `n_samples` at random on `mesh`; a distance is that to the plane at the nearest point.
    """
    from scipy.spatial import cKDTree

    corners = mesh.vertices[mesh.faces]
    crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(crosses, axis=1)
    rng = np.random.default_rng(0)
    face = rng.choice(len(areas), n_samples, p=areas / areas.sum())
    a, b = np.sqrt(rng.random(n_samples)), rng.random(n_samples)
    weights = np.stack([1 - a, a * (1 - b), a * b], axis=1)
    points = (corners[face] * weights[:, :, None]).sum(axis=1)
    normals = crosses[face] / np.maximum(areas[face], 1e-12)[:, None]
    own = vertex_normals(original.vertices, original.faces)

    near = cKDTree(original.vertices).query(points)[1]
    out = np.abs(((points - original.vertices[near]) * own[near]).sum(axis=1))
    near = cKDTree(points).query(original.vertices)[1]
    offset = original.vertices - points[near]
    back = np.abs((offset * normals[near]).sum(axis=1))
    # Parts that the mesh has lost have no nearby point.
    spacing = 4.0 * np.sqrt(areas.sum() / 2 / n_samples)
    back = np.maximum(back, np.linalg.norm(offset, axis=1) - spacing)
    return float(max(np.quantile(out, share), np.quantile(back, share)))


def _pinched(faces: NDArray[np.int32]) -> NDArray[np.int32]:
    """The edges (e, 2) that more than two faces share."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    return unique[counts > 2]


def _unpinched(
    vertices: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The mesh with each edge that more than two faces share drawn together to one of its ends:
    the faces at it vanish, and those beyond them close the gap."""
    while len(edges := _pinched(faces)):
        kept, dropped = edges[0]
        faces = np.where(faces == dropped, kept, faces).astype(np.int32)
        faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    used, number = np.unique(faces, return_inverse=True)
    return vertices[used], number.reshape(-1, 3).astype(np.int32)


def bake(
    color: ColorFunction, mesh: Mesh, *, size: int = OutputConfig.texture_size
) -> TexturedMesh:
    """`mesh` with a texture of `size` texels per side, with the colour of the point at each texel.

    The mesh is in the scene's frame (not yet moved to the origin). Raises MeshError for an invalid
    size.
    """
    if not 16 <= size <= 16384:
        raise MeshError(f"a texture has 16 to 16384 texels a side, not {size}")
    which, faces, uv = unwrap(mesh, size)
    vertices = mesh.vertices[which]
    normals = vertex_normals(mesh.vertices, mesh.faces)[which]
    on_picture = np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1) * size
    face_of, weights = rasterize(on_picture[faces], np.ones((len(faces), 3)), size, size)
    covered = face_of >= 0
    corners = faces[face_of[covered]]
    share = weights[covered][:, :, None]
    points = (vertices[corners] * share).sum(axis=1)
    outward = (normals[corners] * share).sum(axis=1)
    outward /= np.maximum(np.linalg.norm(outward, axis=1, keepdims=True), 1e-12)
    texture = np.zeros((size, size, 3))
    texture[covered] = color(points, outward)
    texture = pad(texture, covered)
    return TexturedMesh(vertices, faces, normals, uv, (texture * 255.0).round().astype(np.uint8))


def unwrap(
    mesh: Mesh, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """A flat map of the mesh: (which, faces, uv).

    which: (v',) the mesh's vertex that each new one is a copy of. faces: (f, 3) in new vertices.
    uv: (v', 2) in [0, 1]. Charts do not overlap, and lie apart by the padding at `size` texels.
    """
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_boundary_length = 4.0  # scene units; without a bound its time grows steeply
    packing.resolution, packing.padding, packing.bilinear = size, _PADDING, True
    atlas.generate(chart_options=charts, pack_options=packing)
    if atlas.atlas_count != 1:
        raise MeshError(f"the mesh does not fit on one texture of {size} texels; ask for more")
    which, faces, uv = atlas[0]
    # xatlas treats the resolution as a hint, and scales both axes by their own size.
    longest = max(atlas.width, atlas.height)
    scale = np.array([atlas.width, atlas.height]) / longest
    return which.astype(np.int64), faces.astype(np.int64), uv.astype(np.float64) * scale


def pad(texture: NDArray[np.float64], covered: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`texture` (h, w, 3) with each texel outside `covered` (h, w) as the nearest one inside."""
    from scipy import ndimage  # type: ignore[import-untyped]

    if not covered.any():
        raise MeshError("no texel lies on the mesh: ask for a larger texture")
    rows, columns = ndimage.distance_transform_edt(
        ~covered, return_distances=False, return_indices=True
    )
    return texture[rows, columns]
