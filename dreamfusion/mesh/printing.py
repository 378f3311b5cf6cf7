"""Prepares meshes for 3D printers: millimetres, +Z up, a flat base, closed outer shells only."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dreamfusion.mesh.extract import MeshError
from dreamfusion.mesh.topology import voxelise

if TYPE_CHECKING:
    import trimesh

FORMATS = ("stl", "3mf")
LEAST_WALL_MM = 1.2  # three lines of a common nozzle of 0.4 mm
_BASE = 0.02  # share of the height that is cut off, to make the base flat
_TOLERANCE_MM = 0.02  # of the simplification
_LEAST_PART = 1e-3  # smaller parts, as shares of the volume, are dropped
_MOST_CELLS = 320  # per axis, to measure walls


def require_print(path: Path) -> None:
    """Raise MeshError if a print cannot be written to this path, or if a package is missing."""
    if path.suffix.lower().removeprefix(".") not in FORMATS:
        raise MeshError(f"cannot write a print as {path.name!r}: use one of {', '.join(FORMATS)}")
    for package in ("manifold3d", "lxml", "networkx"):
        if importlib.util.find_spec(package) is None:
            raise MeshError(f"a print needs {package}: pip install 'dreamfusion[print]'")


def printable(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], size_mm: float
) -> trimesh.Trimesh:
    """Convert a closed mesh (+Y up) to one for a 3D printer, standing on the plane z = 0.

    vertices: (v, 3); duplicates along the seams of a texture are merged. faces: (f, 3). size_mm:
    the longest side. The lowest part is cut off, for a flat base; inner shells and specks are
    dropped. Raises MeshError if the mesh is not closed.
    """
    import manifold3d
    import trimesh

    places, number = np.unique(vertices, axis=0, return_inverse=True)
    turned = places[:, [0, 2, 1]] * (1.0, -1.0, 1.0)
    faces = number.reshape(-1)[faces]
    scaled = (turned * (size_mm / np.ptp(turned, axis=0).max())).astype(np.float32)
    solid = manifold3d.Manifold(manifold3d.Mesh(scaled, faces.astype(np.uint32)))
    if solid.status() != manifold3d.Error.NoError:
        raise MeshError(
            "the mesh is not closed and cannot be printed; export it with another --resolution or "
            "--threshold"
        )
    _, _, low, _, _, high = solid.bounding_box()
    solid = solid.trim_by_plane((0.0, 0.0, 1.0), low + _BASE * (high - low))
    parts = solid.decompose()
    least = _LEAST_PART * max(part.volume() for part in parts)
    solid = manifold3d.Manifold.compose([part for part in parts if part.volume() > least])
    low_x, low_y, _, high_x, high_y, _ = solid.bounding_box()
    mesh = solid.simplify(_TOLERANCE_MM).to_mesh()
    corners = np.asarray(mesh.vert_properties[:, :3], np.float64)
    longest = np.ptp(corners, axis=0).max()
    moved = corners - ((low_x + high_x) / 2, (low_y + high_y) / 2, corners[:, 2].min())
    return trimesh.Trimesh(moved * (size_mm / longest), mesh.tri_verts, process=False)


def print_bytes(mesh: trimesh.Trimesh, path: Path, name: str) -> bytes:
    """The file of a mesh in millimetres, by the suffix of `path`. name: of the object in 3MF."""
    import trimesh

    kind = path.suffix.lower().removeprefix(".")
    data = mesh if kind == "stl" else trimesh.Scene({name: mesh})
    return bytes(data.export(file_type=kind))


def thin_volume(mesh: trimesh.Trimesh) -> float:
    """The volume in mm^3 of the walls thinner than LEAST_WALL_MM: what no ball of that diameter
    inside the mesh reaches. Edges and corners, which none reaches either, are not counted."""
    from scipy import ndimage  # type: ignore[import-untyped]

    size = float(mesh.extents.max()) * 1.02
    cells = math.ceil(min(_MOST_CELLS, 4.0 * size / LEAST_WALL_MM))
    cell, middle = size / cells, mesh.bounds.mean(axis=0)
    inside = voxelise((mesh.vertices - middle) * (2.0 / size), np.asarray(mesh.faces), cells)
    x, y, z = ndimage.find_objects(inside.astype(np.int8))[0]  # the rest of the cube is empty
    inside = np.pad(inside[x, y, z], 1)
    radius = LEAST_WALL_MM / 2.0 / cell
    core = ndimage.distance_transform_edt(inside) > radius
    reached = ndimage.distance_transform_edt(~core) <= radius + 1.5 if core.any() else core
    labels, _ = ndimage.label(inside & ~reached)
    volumes = np.bincount(labels.ravel())[1:] * cell**3
    return float(volumes[volumes > LEAST_WALL_MM**3].sum())
