"""Coloured primitives, the parts that toy objects are made of.

A part is a primitive solid in its own frame (centred, axis along y unless said otherwise), then
rotated and moved. Parts are joined in order: an ordinary part by union, smooth over `blend`;
a part with `carve=True` is subtracted from what stands before it, and gives its colour to what it
lays bare.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

ELLIPSOID, BOX, CONE, LIMB, TORUS, FRUSTUM, WEDGE = range(7)

Vec3 = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One primitive. `params` mean, by `kind`:

    ELLIPSOID radii x, y, z. BOX half sizes x, y, z and rounding. CONE half height, bottom radius,
    top radius, rounding (equal radii: a cylinder). LIMB end point x, y, z relative to `at`, radius
    at the start, radius at the end. TORUS ring radius (in the xz plane), tube radius. FRUSTUM half
    height, bottom half width, top half width, rounding, depth/width ratio (a pyramid when the top
    is 0). WEDGE half height, bottom and top half width in x, half length in z (a roof).
    `color` is "main" (the colour a prompt may change) or a name of the palette.
    """

    kind: int
    at: Vec3
    params: tuple[float, ...]
    color: str = "main"
    rotate_deg: Vec3 = (0.0, 0.0, 0.0)
    blend: float = 0.0
    carve: bool = False


def ball(at: Vec3, size: float | Vec3, color: str = "main", **kwargs: object) -> Part:
    radii = (size, size, size) if isinstance(size, float | int) else size
    return Part(ELLIPSOID, at, radii, color, **kwargs)  # type: ignore[arg-type]


def box(
    at: Vec3, half: Vec3, color: str = "main", rounding: float = 0.02, **kwargs: object
) -> Part:
    return Part(BOX, at, (*half, rounding), color, **kwargs)  # type: ignore[arg-type]


def cone(
    at: Vec3,
    half_height: float,
    bottom: float,
    top: float,
    color: str = "main",
    rounding: float = 0.01,
    **kwargs: object,
) -> Part:
    return Part(CONE, at, (half_height, bottom, top, rounding), color, **kwargs)  # type: ignore[arg-type]


def limb(
    start: Vec3, end: Vec3, radius: float, end_radius: float, color: str = "main", **kwargs: object
) -> Part:
    offset = tuple(e - s for s, e in zip(start, end, strict=True))
    return Part(LIMB, start, (*offset, radius, end_radius), color, **kwargs)  # type: ignore[arg-type]


def torus(at: Vec3, ring: float, tube: float, color: str = "main", **kwargs: object) -> Part:
    return Part(TORUS, at, (ring, tube), color, **kwargs)  # type: ignore[arg-type]


def frustum(
    at: Vec3,
    half_height: float,
    bottom: float,
    top: float,
    color: str = "main",
    rounding: float = 0.01,
    depth_ratio: float = 1.0,
    **kwargs: object,
) -> Part:
    params = (half_height, bottom, top, rounding, depth_ratio)
    return Part(FRUSTUM, at, params, color, **kwargs)  # type: ignore[arg-type]


def wedge(
    at: Vec3,
    half_height: float,
    bottom: float,
    top: float,
    half_length: float,
    color: str = "main",
    **kwargs: object,
) -> Part:
    return Part(WEDGE, at, (half_height, bottom, top, half_length), color, **kwargs)  # type: ignore[arg-type]


def pair(part: Part) -> list[Part]:
    """The part and its mirror image in x."""
    x, y, z = part.at
    params = part.params
    if part.kind == LIMB:
        params = (-params[0], *params[1:])
    rx, ry, rz = part.rotate_deg
    mirrored = replace(part, at=(-x, y, z), params=params, rotate_deg=(rx, -ry, -rz))
    return [part, mirrored]


def legs(
    x: float, z_front: float, z_back: float, top: float, radius: float, foot: float, **kwargs: str
) -> list[Part]:
    """Four legs of an animal or a piece of furniture, from height `top` down to 0."""
    parts: list[Part] = []
    for z in (z_front, z_back):
        parts += pair(limb((x, top, z), (x, foot, z), radius, foot, **kwargs))
    return parts


def eyes(x: float, y: float, z: float, r: float = 0.1, pupil: float = 0.8) -> list[Part]:
    """A pair of eyes that look forward: pupils in white, to be seen on a face of any colour.

    pupil: their radius in that of an eye. Pupils half as large are a pixel or two, and get lost.
    """
    return [
        *pair(ball((x, y, z), r, "white")),
        *pair(ball((x, y, z + 0.5 * r), (pupil * r, pupil * r, 0.62 * r), "black")),
    ]


def wheels(x: float, z_front: float, z_back: float, r: float) -> list[Part]:
    """Four wheels of radius r that stand on the ground."""
    parts: list[Part] = []
    for z in (z_front, z_back):
        parts += pair(cone((x, r, z), 0.09, r, r, "black", rotate_deg=(0, 0, 90)))
        parts += pair(cone((x + 0.03, r, z), 0.08, r * 0.5, r * 0.5, "gray", rotate_deg=(0, 0, 90)))
    return parts


# By the names that nouns.yaml uses.
MAKERS: dict[str, Callable[..., Part | list[Part]]] = {
    maker.__name__: maker
    for maker in (ball, box, cone, limb, torus, frustum, wedge, legs, eyes, wheels)
}


def rotation_matrix(rotate_deg: Vec3) -> NDArray[np.float64]:
    """Rz Ry Rx of the three angles in degrees: part frame to object frame."""
    (sx, cx), (sy, cy), (sz, cz) = (
        (math.sin(math.radians(a)), math.cos(math.radians(a))) for a in rotate_deg
    )
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx
