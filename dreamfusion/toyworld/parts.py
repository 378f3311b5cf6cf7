"""Coloured primitives, the parts of toy objects.

A part is a primitive solid in a local frame (centred, with its axis along y by default), which is
rotated and moved. Parts are combined in order. An ordinary part is added by union, smooth over
`blend`. A part with `carve=True` is subtracted from the parts before it, and colours the surface of
the cut.
"""

import math
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


KINDS = ("ball", "box", "cone", "limb", "torus", "frustum", "wedge")
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
    return Part(KINDS.index(kind), at, tuple(params), **options)


def pair(part: Part) -> list[Part]:
    """The part and its mirror image in x."""
    x, y, z = part.at
    params = part.params
    if part.kind == LIMB:
        params = (-params[0], *params[1:])
    rx, ry, rz = part.rotate_deg
    mirrored = replace(part, at=(-x, y, z), params=params, rotate_deg=(rx, -ry, -rz))
    return [part, mirrored]


def rotation_matrix(rotate_deg: Vec3) -> NDArray[np.float64]:
    """The rotation Rz Ry Rx by three angles in degrees, from the part frame to the object frame."""
    (sx, cx), (sy, cy), (sz, cz) = (
        (math.sin(math.radians(a)), math.cos(math.radians(a))) for a in rotate_deg
    )
    rx = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rz = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rz @ ry @ rx
