"""Coloured primitives, the parts of toy objects.

A part is a primitive solid in a local frame (centred, with its axis along y by default), which is
rotated and moved. Parts are combined in order. An ordinary part is added by union, smooth over
`blend`. A part with `carve=True` is subtracted from the parts before it, and colours the surface of
the cut.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

ELLIPSOID, BOX, CONE, LIMB, TORUS, FRUSTUM, WEDGE = range(7)

Vec3 = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """One primitive. `params` by `kind`:

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


_KINDS = ("ball", "box", "cone", "limb", "torus", "frustum", "wedge")
# Optional last parameters, with their defaults.
_OPTIONS = {
    "box": {"rounding": 0.02},
    "cone": {"rounding": 0.01},
    "frustum": {"rounding": 0.01, "depth_ratio": 1.0},
}


def primitive(kind: str, at: Vec3, *sizes: float | Vec3, **options: Any) -> Part:
    """Make a part by the name of its kind ("ball" is an ellipsoid). sizes: see `Part`; a ball has
    one radius or three, a limb the absolute position of its end point. options: "rounding",
    "depth_ratio" and the fields of `Part`."""
    params = [n for size in sizes for n in (size if isinstance(size, tuple) else (size,))]
    if kind == "ball" and len(params) == 1:
        params *= 3
    if kind == "limb":
        params[:3] = (end - start for start, end in zip(at, params[:3], strict=True))
    params += [options.pop(name, default) for name, default in _OPTIONS.get(kind, {}).items()]
    return Part(_KINDS.index(kind), at, tuple(params), **options)


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
        parts += pair(primitive("limb", (x, top, z), (x, foot, z), radius, foot, **kwargs))
    return parts


def eyes(x: float, y: float, z: float, r: float = 0.1, pupil: float = 0.8) -> list[Part]:
    """A pair of eyes that look forward: black pupils on white, visible on a face of any colour.

    pupil: radius of a pupil relative to the eye's. Pupils of half that size are only a pixel or two
    wide and disappear.
    """
    p = pupil * r
    return [
        *pair(primitive("ball", (x, y, z), r, color="white")),
        *pair(primitive("ball", (x, y, z + 0.5 * r), (p, p, 0.62 * r), color="black")),
    ]


def wheels(x: float, z_front: float, z_back: float, r: float) -> list[Part]:
    """Four wheels of radius r on the ground."""
    parts: list[Part] = []
    turned: Vec3 = (0, 0, 90)
    for z in (z_front, z_back):
        for dx, half, radius, color in ((0.0, 0.09, r, "black"), (0.03, 0.08, r * 0.5, "gray")):
            at = (x + dx, r, z)
            wheel = primitive("cone", at, half, radius, radius, color=color, rotate_deg=turned)
            parts += pair(wheel)
    return parts


# Compound parts that nouns.yaml can name, besides the primitives.
_COMPOUNDS: dict[str, Callable[..., list[Part]]] = {"legs": legs, "eyes": eyes, "wheels": wheels}
KINDS = {*_KINDS, *_COMPOUNDS}


def parts_of(kind: str, *arguments: Any, **options: Any) -> list[Part]:
    """Make the parts of one of KINDS."""
    if kind in _COMPOUNDS:
        return _COMPOUNDS[kind](*arguments, **options)
    return [primitive(kind, *arguments, **options)]


def rotation_matrix(rotate_deg: Vec3) -> NDArray[np.float64]:
    """The rotation Rz Ry Rx by three angles in degrees, from the part frame to the object frame."""
    (sx, cx), (sy, cy), (sz, cz) = (
        (math.sin(math.radians(a)), math.cos(math.radians(a))) for a in rotate_deg
    )
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx
