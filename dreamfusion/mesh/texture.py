"""Converts a coloured mesh to a textured mesh: simplification, UV unwrapping, albedo baking.

Texture coordinates are (u, v) in [0, 1], v up: (0, 0) is the lower left corner of the image.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dreamfusion.config.schema import OutputConfig
from dreamfusion.graphics.triangles import Fragments, rasterize
from dreamfusion.mesh.extract import ColorFunction, Mesh, MeshError, unit

# Aggressiveness values of edge collapse, tried in order until the mesh is not pinched. The last one
# may leave many faces.
AGGRESSIVENESS = (7, 5, 3, 2)
MIN_FACES = 100  # minimum number of faces after `simplify`
_SAMPLES, _QUANTILE = 20_000, 0.99  # of the points that `deviation` measures
_PADDING = 4  # texels around each chart, so that seams are invisible in smaller mipmaps


@dataclass(frozen=True)
class TexturedMesh:
    """Triangles with a texture.

    vertices: (v, 3) float64, scene units; vertices on a seam occur once per chart. faces: (f, 3)
    int64, counter-clockwise from outside. normals: (v, 3), unit, smooth across seams. uv: (v, 2).
    texture: (size, size, 3) sRGB bytes of the albedo, top row first. normal_map: (size, size, 3)
    bytes of a finer mesh's normals in the frame of `tangents`, as in glTF; None without.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    normals: NDArray[np.float64]
    uv: NDArray[np.float64]
    texture: NDArray[np.uint8]
    normal_map: NDArray[np.uint8] | None = None


def decimate(mesh: Mesh, n_faces: int) -> Mesh:
    """Reduce a mesh to at most about `n_faces` faces by quadric edge collapse.

    Each vertex gets the colour of the nearest original vertex. Edge collapse can pinch two sheets
    together, which opens a closed mesh. It is then repeated less aggressively; if the mesh is still
    pinched, the pinched edges are collapsed to points. Raises MeshError for fewer than 4 faces.
    """
    if n_faces < 4:
        raise MeshError(f"a mesh needs at least 4 faces, not {n_faces}")
    if len(mesh.faces) <= n_faces:
        return mesh
    import fast_simplification
    from scipy.spatial import cKDTree  # type: ignore[import-untyped]

    before = mesh.vertices.astype(np.float32), mesh.faces.astype(np.int32)
    found = []
    for value in AGGRESSIVENESS:
        vertices, faces = fast_simplification.simplify(*before, target_count=n_faces, agg=value)
        found.append((vertices, faces))
        if len(faces) <= n_faces and not len(_pinched(faces)):
            break
    else:
        vertices, faces = _unpinched(*found[0])
    nearest = cKDTree(mesh.vertices).query(vertices)[1]
    return Mesh(vertices.astype(np.float64), faces.astype(np.int64), mesh.colors[nearest])


def simplify(mesh: Mesh, *, most: int, tolerance: float) -> Mesh:
    """Reduce a mesh to at most about `most` faces, and further while its `deviation` from the
    original is at most `tolerance`, in scene units. Each iteration halves the number of faces."""
    best = decimate(mesh, most)
    while len(best.faces) >= 2 * MIN_FACES:
        fewer = decimate(best, len(best.faces) // 2)
        if len(fewer.faces) > 0.9 * len(best.faces) or deviation(fewer, mesh) > tolerance:
            break
        best = fewer
    return best


def deviation(mesh: Mesh, original: Mesh) -> float:
    """The distance between two surfaces in scene units: the maximum of both one-sided distances,
    each a high quantile over points: the vertices of `original`, which is dense, as from marching
    cubes, and random points on `mesh`. Distances are to the tangent plane at the nearest point."""
    from scipy.spatial import cKDTree

    corners = mesh.vertices[mesh.faces]
    crosses = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(crosses, axis=1)
    rng = np.random.default_rng(0)
    face = rng.choice(len(areas), _SAMPLES, p=areas / areas.sum())
    a, b = np.sqrt(rng.random(_SAMPLES)), rng.random(_SAMPLES)
    weights = np.stack([1 - a, a * (1 - b), a * b], axis=1)
    points = (corners[face] * weights[:, :, None]).sum(axis=1)
    normals = crosses[face] / np.maximum(areas[face], 1e-12)[:, None]
    original_normals = original.normals

    near = cKDTree(original.vertices).query(points)[1]
    out = np.abs(((points - original.vertices[near]) * original_normals[near]).sum(axis=1))
    near = cKDTree(points).query(original.vertices)[1]
    offset = original.vertices - points[near]
    back = np.abs((offset * normals[near]).sum(axis=1))
    # Points of missing parts are far from any point of the mesh.
    spacing = 4.0 * np.sqrt(areas.sum() / 2 / _SAMPLES)
    back = np.maximum(back, np.linalg.norm(offset, axis=1) - spacing)
    return float(max(np.quantile(out, _QUANTILE), np.quantile(back, _QUANTILE)))


def _pinched(faces: NDArray[np.int32]) -> NDArray[np.int32]:
    """The edges (e, 2) that more than two faces share."""
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    unique, counts = np.unique(edges, axis=0, return_counts=True)
    return unique[counts > 2]


def _unpinched(
    vertices: NDArray[np.float32], faces: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Collapse each edge that more than two faces share to one of its ends. The faces at the edge
    vanish, and their neighbours close the gap."""
    while len(edges := _pinched(faces)):
        kept, dropped = edges[0]
        faces = np.where(faces == dropped, kept, faces).astype(np.int32)
        faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    used, number = np.unique(faces, return_inverse=True)
    return vertices[used], number.reshape(-1, 3).astype(np.int32)


def bake(
    color: ColorFunction,
    mesh: Mesh,
    *,
    size: int = OutputConfig.texture_size,
    fine: Mesh | None = None,
) -> TexturedMesh:
    """Bake the colours of a mesh to a texture of `size` texels per side.

    color: of points on the surface. fine: the mesh before decimation, whose normals are baked to a
    normal map. Both are in the scene's frame (not yet moved to the origin). Raises MeshError for an
    unsuitable size.
    """
    if not 16 <= size <= 16384:
        raise MeshError(f"a texture has 16 to 16384 texels per side, not {size}")
    which, faces, uv = unwrap(mesh, size)
    vertices = mesh.vertices[which]
    normals = mesh.normals[which]
    drawn = draw_uv(np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1), faces, size)
    covered = drawn.face_of[0].numpy() >= 0
    corners, share = drawn.corners.numpy(), drawn.weights.numpy()[:, :, None]
    points = (vertices[corners] * share).sum(axis=1)
    outward = (normals[corners] * share).sum(axis=1)
    outward = unit(outward)
    texture = np.zeros((size, size, 3))
    texture[covered] = color(points, outward)
    texture = pad(texture, covered)
    baked = TexturedMesh(vertices, faces, normals, uv, (texture * 255.0).round().astype(np.uint8))
    if fine is None:
        return baked
    along = tangents(baked)
    x_axis = (along[corners, :3] * share).sum(axis=1)
    x_axis -= outward * (outward * x_axis).sum(axis=1, keepdims=True)
    x_axis = unit(x_axis)
    y_axis = np.cross(outward, x_axis) * along[corners[:, :1], 3]
    detail = _normals_near(fine, points, outward)
    in_frame = np.stack([(detail * a).sum(axis=1) for a in (x_axis, y_axis, outward)], axis=1)
    normal_map = np.zeros((size, size, 3))
    normal_map[covered] = in_frame * 0.5 + 0.5
    pixels = (pad(normal_map, covered) * 255.0).round().astype(np.uint8)
    return dataclasses.replace(baked, normal_map=pixels)


def draw_uv(uv: NDArray[np.float64], faces: NDArray[np.int64], size: int) -> Fragments:
    """Draw faces onto a texture of `size` texels per side. uv: (v, 2), v down."""
    points = np.concatenate([uv * size, np.ones((len(uv), 1))], axis=1)
    return rasterize(torch.from_numpy(points)[None], torch.from_numpy(faces), size, size)


def tangents(mesh: TexturedMesh) -> NDArray[np.float64]:
    """glTF's tangents (v, 4) at the vertices: the unit direction of increasing u on the surface,
    and the sign of the bitangent, sign * normal x tangent, which points to increasing v."""
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces], 1, 0)
    p, q, r = np.moveaxis(mesh.uv[mesh.faces], 1, 0)
    (du1, dv1), (du2, dv2) = (q - p).T, (r - p).T
    # Weighted by area: the determinant is not divided out, only its sign is.
    sign = np.sign(du1 * dv2 - du2 * dv1)
    direction = ((b - a) * dv2[:, None] - (c - a) * dv1[:, None]) * sign[:, None]
    summed, signs = np.zeros_like(mesh.vertices), np.zeros(len(mesh.vertices))
    for column in range(3):
        np.add.at(summed, mesh.faces[:, column], direction)
        np.add.at(signs, mesh.faces[:, column], sign)
    summed -= mesh.normals * (mesh.normals * summed).sum(axis=1, keepdims=True)
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    # Any direction serves where no face has an area on the texture.
    spare = unit(np.cross(mesh.normals, np.eye(3)[np.abs(mesh.normals).argmin(axis=1)]))
    along = np.where(length > 1e-12, summed / np.maximum(length, 1e-12), spare)
    return np.concatenate([along, np.where(signs < 0, -1.0, 1.0)[:, None]], axis=1)


def _normals_near(
    fine: Mesh, points: NDArray[np.float64], outward: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Unit normals (p, 3) of a fine mesh near points (p, 3) of a coarse one, interpolated from the
    four nearest vertices. Vertices of the other side of a thin part, by `outward`, are ignored."""
    from scipy.spatial import cKDTree

    distance, near = cKDTree(fine.vertices).query(points, k=4, workers=-1)
    normals = fine.normals[near]
    weights = ((normals * outward[:, None]).sum(axis=2) > 0) / np.maximum(distance, 1e-9)
    mean = (normals * weights[..., None]).sum(axis=1)
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    return np.where(length > 1e-9, mean / np.maximum(length, 1e-9), outward)


def unwrap(
    mesh: Mesh, size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """UV-unwrap a mesh: (which, faces, uv).

    which: (v',) original vertex of each new vertex. faces: (f, 3) of new vertices. uv: (v', 2) in
    [0, 1]. Charts do not overlap; their distance is the padding for `size` texels. Raises MeshError
    if they do not fit.
    """
    import xatlas

    atlas = xatlas.Atlas()
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    charts, packing = xatlas.ChartOptions(), xatlas.PackOptions()
    charts.max_boundary_length = 4.0  # scene units; without a limit, unwrapping is slow
    packing.resolution, packing.padding, packing.bilinear = size, _PADDING, True
    atlas.generate(chart_options=charts, pack_options=packing)
    if atlas.atlas_count != 1:
        raise MeshError(f"the mesh does not fit on one texture of {size} texels; use more")
    which, faces, uv = atlas[0]
    # xatlas treats the resolution as a hint, and normalises each axis separately.
    longest = max(atlas.width, atlas.height)
    scale = np.array([atlas.width, atlas.height]) / longest
    return which.astype(np.int64), faces.astype(np.int64), uv.astype(np.float64) * scale


def pad(texture: NDArray[np.float64], covered: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fill each texel of `texture` (h, w, 3) outside `covered` (h, w) with the nearest covered one.
    Raises MeshError if none is covered."""
    from scipy import ndimage  # type: ignore[import-untyped]

    if not covered.any():
        raise MeshError("no texel is on the mesh: use a larger texture")
    rows, columns = ndimage.distance_transform_edt(
        ~covered, return_distances=False, return_indices=True
    )
    return texture[rows, columns]
