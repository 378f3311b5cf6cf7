"""Toy objects, procedural 3D models of a noun, a colour and a shape adjective, their images, and
the words of their views.

A `ToyObject` has signed distances, a mesh, and depth, normals and albedo from any camera. It is
centred at the origin and fits the sphere of radius `BOUNDING_RADIUS`. Its geometry buffers are
coloured, lit and composited afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dreamfusion.config.layers import read_yaml
from dreamfusion.graphics.cameras import Cameras, generate_rays
from dreamfusion.toyworld import sdf
from dreamfusion.toyworld.nouns import NOUNS, Noun

WORDS = read_yaml(Path(__file__).with_name("words.yaml"))
VIEWS: dict[str, list[dict[str, Any]]] = WORDS["views"]
AZIMUTH_WORDS = tuple(str(view["text"]) for view in VIEWS["azimuth"])
SHADING_WORDS: dict[str, str] = WORDS["shading"]
PALETTE: dict[str, tuple[float, float, float]] = {k: tuple(v) for k, v in WORDS["palette"].items()}
COLORS: tuple[str, ...] = tuple(PALETTE)[:12]
# Index 0 is empty space. The last one, "main", is for objects with a variable main colour: callers
# write the colour of their buffers into that row of the palette table.
COLOR_INDEX: dict[str, int] = {name: i + 1 for i, name in enumerate((*PALETTE, "main"))}
PALETTE_TABLE: NDArray[np.float32] = np.array(
    [(0, 0, 0), *PALETTE.values(), (1, 0, 1)], dtype=np.float32
)

# Scale along x, y, z before the object is fitted to its sphere, and scale of the sphere.
ADJECTIVES: dict[str, tuple[tuple[float, float, float], float]] = WORDS["adjectives"]

BOUNDING_RADIUS = 0.85

BY_NAME: dict[str, Noun] = {noun.name: noun for noun in NOUNS}


@dataclass(frozen=True)
class GeometryBuffers:
    """Geometry of an object along rays. Leading shape: that of the rays.

    depth: (...) distance along the ray, inf without a hit. normals: (..., 3) outward unit vectors,
    world frame, 0 without a hit. color_index: (...) uint8 row of PALETTE_TABLE, 0 without a hit.
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
        """Signed distance (n,) at world points (n, 3): negative inside, a lower bound outside."""
        return self._nearest(points)[0] * self.scale.min()

    def albedo(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """sRGB colours (n, 3) of the parts nearest to world points (n, 3)."""
        return PALETTE_TABLE[self._nearest(points)[1]]

    def _nearest(
        self, points: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        inner = np.asarray(points, dtype=np.float32) / self.scale + self.centre
        return sdf.signed_distance(self.table, inner)

    def trace(
        self, origins: NDArray[np.float32], directions: NDArray[np.float32]
    ) -> GeometryBuffers:
        """Intersect the object with rays (..., 3) in the world frame, with unit directions."""
        shape = origins.shape[:-1]
        rays = [np.ascontiguousarray(part.reshape(-1, 3)) for part in (origins, directions)]
        bound = 1.03 * BOUNDING_RADIUS
        depth, normals, color = sdf.trace(self.table, self.scale, self.centre, *rays, bound)
        return GeometryBuffers(
            depth.reshape(shape), normals.reshape(*shape, 3), color.reshape(shape)
        )

    def occupancy(self, resolution: int = 96) -> NDArray[np.bool_]:
        """Whether each cell centre of the box [-1, 1]^3 is inside; indexed [x, y, z]."""
        axis = ((np.arange(resolution) + 0.5) / resolution * 2 - 1).astype(np.float32)
        return self.signed_distance(_grid(axis)).reshape(3 * (resolution,)) < 0

    def mesh(
        self, resolution: int = 128
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Extract a mesh with marching cubes: vertices (v, 3), faces (f, 3) with outward normals,
        vertex colours (v, 3)."""
        from skimage.measure import marching_cubes

        axis = np.linspace(-1, 1, resolution, dtype=np.float32)
        volume = self.signed_distance(_grid(axis)).reshape(3 * (resolution,))
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

    Without `rng`, each proportion is the middle of its range; with `rng`, it is random. The colour
    "main" is variable (see COLOR_INDEX). Raises KeyError for unknown names.
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
    grid = _grid(axis)
    distance, _ = sdf.signed_distance(table, grid)
    return grid[distance < 0.5 * (axis[1] - axis[0])]


def _grid(axis: NDArray[np.float32]) -> NDArray[np.float32]:
    """The points (n^3, 3) of a cubic grid with these n coordinates on each axis."""
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)


def view(obj: ToyObject, cameras: Cameras, size: int) -> GeometryBuffers:
    """Depth, normals and colour index of `obj`, each (n, size, size, ...), from n cameras."""
    rays = generate_rays(cameras, size, size)
    return obj.trace(rays.origins.numpy(), rays.directions.numpy())


def shade(
    normals: Tensor,
    color_index: Tensor,
    *,
    palettes: Tensor,
    shadings: Sequence[str],
    light_directions: Tensor,
    ambient: Tensor,
) -> Tensor:
    """Shade n views: images (n, h, w, 3) in [0, 1].

    normals: (n, h, w, 3) unit vectors. color_index: (n, h, w) rows of `palettes`, 0 for background.
    palettes: (n, colours, 3); row 0 is the background. shadings: n of "albedo" (no light),
    "lambertian" and "textureless" (the same light on white). light_directions: (n, 3) unit vectors
    towards the lights. ambient: (n,) in [0, 1]; the diffuse share is the rest.
    """
    device = normals.device
    unlit = torch.tensor([s == "albedo" for s in shadings], device=device)[:, None, None, None]
    white = torch.tensor([s == "textureless" for s in shadings], device=device)
    index = color_index.long()
    n = len(index)
    colors = palettes[torch.arange(n, device=device)[:, None, None], index]
    diffuse = torch.einsum("nhwc,nc->nhw", normals, light_directions).clamp(0.0, 1.0)[..., None]
    share = ambient[:, None, None, None]
    light = torch.where(unlit, 1.0, share + (1.0 - share) * diffuse)
    surface = torch.where(white[:, None, None, None], 1.0, colors) * light
    return torch.where((index > 0)[..., None], surface, palettes[:, None, None, 0])


def downsample(images: Tensor, factor: int) -> Tensor:
    """Downsample images (n, h, w, c) by a factor, with a box filter."""
    pooled = torch.nn.functional.avg_pool2d(images.movedim(-1, 1), factor)
    return pooled.movedim(1, -1)


def azimuth_word(azimuth_deg: float) -> str:
    """The word for the direction nearest to an azimuth in degrees (any real number)."""
    step = 360.0 / len(AZIMUTH_WORDS)
    return AZIMUTH_WORDS[round(azimuth_deg / step) % len(AZIMUTH_WORDS)]


def elevation_word(elevation_deg: float) -> str:
    """The word for an elevation in [-90, 90] degrees."""
    return [view["text"] for view in VIEWS["elevation"] if elevation_deg >= view["min_deg"]][-1]


def held_out_pairs() -> list[tuple[str, str]]:
    """Pairs of noun and colour that are not in the training data, to measure composition: 12 % of
    all, with every colour and almost every noun, but never the natural colour of a noun."""
    rng = np.random.default_rng(0)
    pairs = [(n.name, c) for n in NOUNS for c in COLORS if c != n.color]
    chosen = rng.choice(len(pairs), size=round(0.12 * len(NOUNS) * len(COLORS)), replace=False)
    return [pairs[i] for i in sorted(chosen)]
