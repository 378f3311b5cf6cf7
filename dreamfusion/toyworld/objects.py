"""Toy objects: a noun, a colour and a shape adjective made into something that can be seen.

A `ToyObject` answers with pictures (depth, normals, albedo) from any camera, with signed distances
and with a mesh. It stands centred at the origin and fits the sphere of radius `BOUNDING_RADIUS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreamfusion.toyworld import sdf
from dreamfusion.toyworld.nouns import NOUNS, Noun

# sRGB in [0, 1]. The first eleven are the colours that a prompt may ask for.
PALETTE: dict[str, tuple[float, float, float]] = {
    "red": (0.84, 0.12, 0.12),
    "orange": (0.95, 0.52, 0.10),
    "yellow": (0.97, 0.85, 0.15),
    "green": (0.16, 0.62, 0.22),
    "blue": (0.13, 0.30, 0.85),
    "purple": (0.52, 0.20, 0.70),
    "pink": (0.98, 0.56, 0.72),
    "brown": (0.45, 0.27, 0.13),
    "black": (0.08, 0.08, 0.09),
    "white": (0.95, 0.95, 0.95),
    "gray": (0.52, 0.53, 0.55),
    "turquoise": (0.15, 0.75, 0.75),
    "tan": (0.86, 0.70, 0.48),
    "cream": (0.95, 0.89, 0.74),
    "lightblue": (0.60, 0.80, 0.95),
}
COLORS: tuple[str, ...] = tuple(PALETTE)[:12]
# Index 0 stands for "nothing there"; the last one, "main", for an object whose main colour is left
# open: whoever colours its buffers puts the colour into that row of the palette table.
COLOR_INDEX: dict[str, int] = {name: i + 1 for i, name in enumerate((*PALETTE, "main"))}
PALETTE_TABLE: NDArray[np.float32] = np.array(
    [(0, 0, 0), *PALETTE.values(), (1, 0, 1)], dtype=np.float32
)

# Adjective: scale along x, y, z before the object is fitted to its sphere, and the sphere's scale.
ADJECTIVES: dict[str, tuple[tuple[float, float, float], float]] = {
    "tall": ((1.0, 1.45, 1.0), 1.0),
    "flat": ((1.0, 0.6, 1.0), 1.0),
    "wide": ((1.4, 1.0, 1.0), 1.0),
    "thin": ((0.65, 1.0, 0.65), 1.0),
    "tiny": ((1.0, 1.0, 1.0), 0.6),
}

BOUNDING_RADIUS = 0.85

BY_NAME: dict[str, Noun] = {noun.name: noun for noun in NOUNS}


@dataclass(frozen=True)
class GeometryBuffers:
    """What cameras see of an object. Leading shape: that of the rays.

    depth: (...) distance along the ray, inf where nothing is hit. normals: (..., 3) outward unit
    vectors, world frame, zero where nothing is hit. color_index: (...) uint8, row of PALETTE_TABLE,
    0 where nothing is hit.
    """

    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    color_index: NDArray[np.uint8]


@dataclass(frozen=True)
class ToyObject:
    """An object of the toy world. Use `make_object`."""

    noun: str
    color: str
    adjective: str | None
    table: NDArray[np.float32]
    scale: NDArray[np.float32]
    centre: NDArray[np.float32]

    def signed_distance(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distance (n,) at world points (n, 3): negative inside, a lower bound of it outside."""
        inner = np.asarray(points, dtype=np.float32) / self.scale + self.centre
        distance, _ = sdf.signed_distance(self.table, inner)
        return distance * self.scale.min()

    def albedo(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """sRGB colours (n, 3) of the parts nearest to world points (n, 3)."""
        inner = np.asarray(points, dtype=np.float32) / self.scale + self.centre
        _, color = sdf.signed_distance(self.table, inner)
        return PALETTE_TABLE[color]

    def trace(
        self, origins: NDArray[np.float32], directions: NDArray[np.float32]
    ) -> GeometryBuffers:
        """What rays of shape (..., 3), unit directions, world frame, see of the object."""
        shape = origins.shape[:-1]
        depth, normals, color = sdf.trace(
            self.table,
            self.scale,
            self.centre,
            origins.reshape(-1, 3),
            directions.reshape(-1, 3),
            bound=1.03 * BOUNDING_RADIUS,
        )
        return GeometryBuffers(
            depth.reshape(shape), normals.reshape(*shape, 3), color.reshape(shape)
        )

    def occupancy(self, resolution: int = 96) -> NDArray[np.bool_]:
        """Which cell centres of the box [-1, 1]^3 lie inside; indexed [x, y, z]."""
        axis = ((np.arange(resolution) + 0.5) / resolution * 2 - 1).astype(np.float32)
        grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
        inside = self.signed_distance(grid.reshape(-1, 3)) < 0
        return inside.reshape(resolution, resolution, resolution)

    def mesh(
        self, resolution: int = 128
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Marching cubes: vertices (v, 3), faces (f, 3) wound outwards, vertex colours (v, 3)."""
        from skimage.measure import marching_cubes

        axis = np.linspace(-1, 1, resolution, dtype=np.float32)
        grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
        volume = self.signed_distance(grid.reshape(-1, 3)).reshape(grid.shape[:3])
        vertices, faces, _, _ = marching_cubes(volume, 0.0, gradient_direction="descent")
        vertices = (vertices * (2.0 / (resolution - 1)) - 1.0).astype(np.float32)
        return vertices, faces.astype(np.int64), self.albedo(vertices)


def make_object(
    noun: str,
    color: str | None = None,
    adjective: str | None = None,
    rng: np.random.Generator | None = None,
) -> ToyObject:
    """The object called `noun`, in its natural colour unless `color` is given.

    Without `rng` it is the canonical object, every proportion in the middle of its range; with
    it, proportions are drawn. The colour "main" leaves the main colour open (see COLOR_INDEX).
    Raises KeyError for names that the toy world does not have.
    """
    kind = BY_NAME[noun]
    main = color or kind.color
    stretch, size = ADJECTIVES[adjective] if adjective else ((1.0, 1.0, 1.0), 1.0)

    def draw(low: float, high: float) -> float:
        return (low + high) / 2 if rng is None else float(rng.uniform(low, high))

    table = sdf.part_table(kind.build(draw), {**COLOR_INDEX, "main": COLOR_INDEX[main]})
    points = _points_near(table)
    centre = (points.min(axis=0) + points.max(axis=0)) / 2
    stretched = np.asarray(stretch, dtype=np.float32)
    radius = float(np.linalg.norm((points - centre) * stretched, axis=1).max())
    scale = stretched * (size * BOUNDING_RADIUS / radius)
    return ToyObject(noun, main, adjective, table, scale, centre)


def _points_near(table: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grid points (n, 3) inside an object or within half a grid step of it, object frame."""
    axis = np.linspace(-2.4, 2.4, 65, dtype=np.float32)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    grid = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    distance, _ = sdf.signed_distance(table, grid)
    return grid[distance < 0.5 * (axis[1] - axis[0])]
