"""Textures of a mesh file: one for each material. Texture coordinates are glTF's, v down."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.texture import TexturedMesh, draw_uv, pad, unwrap
from dreamfusion.scenes.mesh.model import Model, Part

# The file's own coordinates are used if at most this share of their area lies on another face.
_MOST_OVERLAP = 0.05
NO_COORDINATES = "no texture coordinates"
_CHECK_SIZE = 1024  # texels per side to measure overlaps
# A part, the indices of three vertices (m, 3) and their weights (m, 3), to sRGB colours (m, 3).
PaintFunction = Callable[[Part, NDArray[np.int64], NDArray[np.float64]], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Layout:
    """A part on its texture. which: (v',) the part's vertex of each vertex here; vertices on a seam
    occur several times. faces: (f, 3) of these, in the part's order. uv: (v', 2)."""

    part: Part
    which: NDArray[np.int64]
    faces: NDArray[np.int64]
    uv: NDArray[np.float64]


@dataclass(frozen=True)
class Sheet:
    """The parts that share a material, and so a texture. reason: why the file's own coordinates are
    not used, or ""."""

    layouts: tuple[Layout, ...]
    reason: str


def sheets_of(model: Model, size: int) -> list[Sheet]:
    """The textures of a model, `size` texels per side. Raises MeshError if charts do not fit."""
    by_material: dict[int | None, list[Part]] = {}
    for part in model.parts.values():
        by_material.setdefault(part.material, []).append(part)
    return [_sheet(replace(model, placements=tuple(of)), size) for of in by_material.values()]


def _sheet(model: Model, size: int) -> Sheet:
    """The texture of a model that has these parts alone, each once."""
    parts = model.placements
    if not (reason := _unusable(parts)):
        own = [
            Layout(p, np.arange(len(p.vertices)), p.faces, p.uv) for p in parts if p.uv is not None
        ]
        return Sheet(tuple(own), "")
    blank = Mesh(model.vertices, model.faces, np.zeros_like(model.vertices))
    which, new_faces, uv = unwrap(blank, size)
    uv[:, 1] = 1.0 - uv[:, 1]
    layouts, first = [], 0
    for part, start in zip(parts, model.starts, strict=True):
        used, of_part = np.unique(new_faces[first : first + len(part.faces)], return_inverse=True)
        layouts.append(Layout(part, which[used] - start, of_part.reshape(-1, 3), uv[used]))
        first += len(part.faces)
    return Sheet(tuple(layouts), reason)


def _unusable(parts: Sequence[Part]) -> str:
    """Why the coordinates of parts cannot hold a texture, or ""."""
    if any(part.uv is None for part in parts):
        return NO_COORDINATES
    uv = np.concatenate([part.uv[part.faces] for part in parts if part.uv is not None])
    if not np.isfinite(uv).all():
        return "texture coordinates that are not finite"
    if uv.min() < -1e-3 or uv.max() > 1 + 1e-3:
        return "texture coordinates outside the square"
    (du1, dv1), (du2, dv2) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    area = np.abs(du1 * dv2 - du2 * dv1) / 2
    if area.sum() < 1e-4:
        return "texture coordinates without an area"
    each = np.arange(3 * len(uv)).reshape(-1, 3)
    covered = (draw_uv(uv.reshape(-1, 2), each, _CHECK_SIZE).face_of >= 0).double().mean().item()
    if area.sum() * (1 - _MOST_OVERLAP) > covered:
        return "overlapping texture coordinates"
    return ""


def bake(sheet: Sheet, size: int, paint: PaintFunction) -> NDArray[np.uint8]:
    """The texture (size, size, 3) of a sheet, sRGB. Raises MeshError if no texel is on it."""
    texture, covered = np.zeros((size, size, 3)), np.zeros((size, size), bool)
    for layout in sheet.layouts:
        drawn = draw_uv(layout.uv, layout.faces, size)
        _, row, column = (index.numpy() for index in drawn.pixels)
        corners = layout.which[drawn.corners.numpy()]
        texture[row, column] = paint(layout.part, corners, drawn.weights.numpy())
        covered[row, column] = True
    return (pad(texture, covered) * 255.0).round().astype(np.uint8)


def as_textured(
    model: Model, sheets: list[Sheet], textures: list[NDArray[np.uint8]]
) -> TexturedMesh:
    """The whole model with one texture: the sheets' textures beside each other, in rows."""
    side = int(np.ceil(np.sqrt(len(sheets))))
    size = len(textures[0])
    whole = np.zeros((side * size, side * size, 3), np.uint8)
    places = {}
    for number, (sheet, texture) in enumerate(zip(sheets, textures, strict=True)):
        row, column = divmod(number, side)
        whole[row * size : (row + 1) * size, column * size : (column + 1) * size] = texture
        for layout in sheet.layouts:
            places[layout.part.key] = (layout, np.array([column, row]))
    vertices, normals, faces, uvs, n = [], [], [], [], 0
    for placement in model.placements:
        layout, corner = places[placement.key]
        vertices.append(placement.vertices[layout.which])
        normals.append(placement.normals[layout.which])
        faces.append(layout.faces + n)
        uvs.append((layout.uv + corner) / side)
        n += len(layout.which)
    uv = np.concatenate(uvs)
    uv[:, 1] = 1.0 - uv[:, 1]
    return TexturedMesh(
        np.concatenate(vertices), np.concatenate(faces), np.concatenate(normals), uv, whole
    )
