"""The nouns of the toy world: what each kind of object is built of.

Every function takes `v`, which draws a number from a range (its middle for the canonical object),
and returns parts: +Y up, front towards +Z, in any unit and place; objects are scaled and centred
afterwards. Within a kind, proportions vary, so that a model learns the kind and not one mesh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dreamfusion.toyworld.parts import (
    Part,
    ball,
    box,
    cone,
    frustum,
    legs,
    limb,
    pair,
    torus,
    wedge,
)

Draw = Callable[[float, float], float]
Builder = Callable[[Draw], list[Part]]


@dataclass(frozen=True)
class Noun:
    """A kind of object: its builder, its natural main colour and its other names."""

    name: str
    build: Builder
    color: str
    synonyms: tuple[str, ...] = ()


def eyes(x: float, y: float, z: float, r: float = 0.1, pupil: float = 0.8) -> list[Part]:
    """A pair of eyes that look forward: pupils in white, to be seen on a face of any colour.

    pupil: their radius in that of an eye. Pupils half as large are a pixel or two, and get lost.
    """
    return [
        *pair(ball((x, y, z), r, "white")),
        *pair(ball((x, y, z + 0.5 * r), (pupil * r, pupil * r, 0.62 * r), "black")),
    ]


# Animals ---------------------------------------------------------------------------------------


def corgi(v: Draw) -> list[Part]:
    length, tall = v(0.44, 0.54), v(0.24, 0.3)
    head_y, head_z = v(1.0, 1.08), length + 0.1
    return [
        *legs(0.2, length - 0.12, 0.1 - length, tall + 0.1, 0.12, 0.11, color="white"),
        limb((0, tall + 0.24, -length + 0.1), (0, tall + 0.28, length - 0.12), 0.32, 0.33),
        ball((0, tall + 0.14, length - 0.02), (0.27, 0.28, 0.24), "white", blend=0.05),
        limb((0, tall + 0.4, length - 0.1), (0, head_y - 0.05, head_z), 0.26, 0.24, blend=0.08),
        ball((0, head_y, head_z), (0.38, 0.33, 0.32), blend=0.05),
        ball((0, head_y - 0.12, head_z + 0.29), (0.17, 0.14, 0.21), "white", blend=0.03),
        ball((0, head_y - 0.05, head_z + 0.48), (0.09, 0.07, 0.06), "black"),
        *pair(cone((0.24, head_y + 0.4, head_z - 0.03), 0.22, 0.16, 0.03, rotate_deg=(0, 0, -14))),
        *eyes(0.2, head_y + 0.1, head_z + 0.245, 0.115),
        ball((0, tall + 0.42, -length - 0.2), (0.1, 0.09, 0.11), "white", blend=0.05),
    ]


def cat(v: Draw) -> list[Part]:
    length, tail = v(0.32, 0.42), v(0.45, 0.65)
    z = length + 0.08
    return [
        *legs(0.16, length - 0.08, 0.1 - length, 0.46, 0.095, 0.085),
        limb((0, 0.56, -length), (0, 0.58, length), 0.22, 0.22),
        ball((0, 0.96, z), (0.36, 0.31, 0.29), blend=0.05),
        *pair(cone((0.21, 1.28, z), 0.15, 0.14, 0.01, rotate_deg=(0, 0, -12))),
        *eyes(0.2, 1.03, z + 0.195, 0.115),
        ball((0, 0.87, z + 0.27), (0.13, 0.09, 0.08), "white"),
        ball((0, 0.92, z + 0.35), (0.055, 0.045, 0.04), "pink"),
        limb((0, 0.62, -length - 0.08), (0, 0.9, -length - 0.36), 0.08, 0.075),
        limb((0, 0.9, -length - 0.36), (0, 0.72 + tail, -length - 0.32), 0.075, 0.07),
    ]


def rabbit(v: Draw) -> list[Part]:
    ear, lean = v(0.26, 0.38), v(3, 14)
    return [
        ball((0, 0.4, -0.1), (0.36, 0.4, 0.42)),
        ball((0, 0.95, 0.18), (0.33, 0.3, 0.3), blend=0.06),
        *pair(ball((0.15, 1.2 + ear, 0.1), (0.1, ear + 0.06, 0.075), rotate_deg=(0, 0, -lean))),
        *pair(
            ball(
                (0.155, 1.2 + ear, 0.16),
                (0.06, ear - 0.03, 0.035),
                "pink",
                rotate_deg=(0, 0, -lean),
            )
        ),
        *eyes(0.19, 1.03, 0.38, 0.11),
        ball((0, 0.9, 0.48), (0.06, 0.05, 0.05), "pink"),
        *pair(ball((0.2, 0.1, 0.22), (0.12, 0.1, 0.24))),
        ball((0, 0.3, -0.54), 0.16, "white"),
    ]


def duck(v: Draw) -> list[Part]:
    body = v(0.4, 0.5)
    return [
        ball((0, 0.34, 0), (0.4, 0.34, body)),
        limb((0, 0.4, -body + 0.1), (0, 0.62, -body - 0.2), 0.2, 0.04, blend=0.1),
        limb((0, 0.45, body - 0.2), (0, 0.9, body - 0.06), 0.2, 0.2, blend=0.1),
        ball((0, 1.0, body - 0.06), 0.33, blend=0.05),
        ball((0, 0.92, body + 0.3), (0.18, 0.065, 0.2), "orange"),
        *eyes(0.185, 1.11, body + 0.155, 0.12),
        *pair(ball((0.38, 0.42, -0.05), (0.08, 0.2, 0.3))),
    ]


def penguin(v: Draw) -> list[Part]:
    w, h = v(0.36, 0.42), v(0.54, 0.62)
    return [
        ball((0, h, 0), (w, h, w)),
        ball((0, h - 0.06, 0.13), (w * 0.78, h * 0.82, w * 0.76), "white"),
        ball((0, 2 * h + 0.02, 0.02), (0.32, 0.3, 0.3), blend=0.06),
        cone((0, 2 * h - 0.03, 0.38), 0.14, 0.1, 0.015, "orange", rotate_deg=(90, 0, 0)),
        *eyes(0.14, 2 * h + 0.1, 0.25, pupil=0.7),
        *pair(limb((w - 0.02, h + 0.25, 0), (w + 0.2, h - 0.3, 0.02), 0.1, 0.06)),
        *pair(ball((0.17, 0.03, 0.2), (0.14, 0.06, 0.22), "orange")),
    ]


def owl(v: Draw) -> list[Part]:
    w = v(0.38, 0.46)
    return [
        ball((0, 0.6, 0), (w, 0.6, 0.36)),
        ball((0, 0.48, 0.14), (w * 0.7, 0.4, 0.26), "tan"),
        ball((0, 1.1, 0.02), (0.42, 0.32, 0.34), blend=0.06),
        *pair(cone((0.3, 1.42, 0.04), 0.14, 0.1, 0.01, rotate_deg=(0, 0, -22))),
        *pair(ball((0.16, 1.14, 0.28), (0.16, 0.16, 0.08), "white")),
        *pair(ball((0.16, 1.14, 0.35), (0.085, 0.085, 0.04), "black")),
        cone((0, 1.0, 0.38), 0.09, 0.06, 0.01, "orange", rotate_deg=(140, 0, 0)),
        *pair(ball((w - 0.01, 0.6, -0.03), (0.1, 0.4, 0.24))),
        *pair(ball((0.16, 0.02, 0.2), (0.1, 0.06, 0.16), "orange")),
    ]


def bear(v: Draw) -> list[Part]:
    w = v(0.36, 0.44)
    return [
        ball((0, 0.54, 0), (w, 0.46, 0.36)),
        ball((0, 0.51, 0.12), (w * 0.66, 0.33, 0.28), "tan"),
        ball((0, 1.2, 0.04), (0.42, 0.37, 0.35), blend=0.04),
        *pair(ball((0.34, 1.5, 0), (0.16, 0.16, 0.09))),
        *pair(ball((0.34, 1.5, 0.07), (0.095, 0.095, 0.06), "tan")),
        ball((0, 1.09, 0.34), (0.2, 0.15, 0.13), "tan"),
        ball((0, 1.15, 0.48), (0.085, 0.06, 0.045), "black"),
        *eyes(0.175, 1.31, 0.31),
        *pair(limb((w - 0.08, 0.8, 0.05), (w + 0.2, 0.46, 0.22), 0.15, 0.13)),
        *pair(limb((0.22, 0.2, 0.08), (0.32, 0.13, 0.44), 0.17, 0.16)),
    ]


def pig(v: Draw) -> list[Part]:
    length = v(0.36, 0.46)
    return [
        *legs(0.22, length - 0.1, 0.08 - length, 0.38, 0.12, 0.11),
        ball((0, 0.58, 0), (0.38, 0.36, length + 0.12)),
        ball((0, 0.82, length + 0.08), (0.36, 0.33, 0.31), blend=0.04),
        cone((0, 0.74, length + 0.4), 0.09, 0.17, 0.16, "cream", rotate_deg=(90, 0, 0)),
        *pair(ball((0.07, 0.75, length + 0.48), (0.055, 0.065, 0.035), "black")),
        *eyes(0.2, 0.98, length + 0.27, 0.115),
        *pair(cone((0.24, 1.15, length + 0.06), 0.12, 0.12, 0.01, rotate_deg=(15, 0, -20))),
        torus((0, 0.72, -length - 0.14), 0.08, 0.035, rotate_deg=(0, 0, 90)),
    ]


def elephant(v: Draw) -> list[Part]:
    trunk = v(0.25, 0.38)
    return [
        *legs(0.26, 0.24, -0.36, 0.5, 0.17, 0.16),
        ball((0, 0.8, -0.08), (0.43, 0.41, 0.52)),
        ball((0, 1.08, 0.46), (0.36, 0.36, 0.31), blend=0.06),
        *pair(ball((0.5, 1.12, 0.32), (0.3, 0.37, 0.07), rotate_deg=(0, 25, 0))),
        limb((0, 0.98, 0.7), (0, 0.55, 0.9), 0.14, 0.1, blend=0.05),
        limb((0, 0.55, 0.9), (0, trunk, 1.02), 0.1, 0.085),
        *pair(limb((0.17, 0.86, 0.66), (0.19, 0.68, 0.92), 0.06, 0.03, "white")),
        *eyes(0.21, 1.2, 0.67, 0.12),
        limb((0, 0.9, -0.56), (0, 0.5, -0.66), 0.045, 0.04),
    ]


def fish(v: Draw) -> list[Part]:
    h = v(0.34, 0.42)
    return [
        ball((0, 0, 0.1), (0.26, h, 0.56)),
        limb((0, 0.02, -0.42), (0, 0.32, -0.82), 0.11, 0.08),
        limb((0, -0.02, -0.42), (0, -0.32, -0.82), 0.11, 0.08),
        limb((0, h - 0.05, 0.1), (0, h + 0.13, -0.2), 0.08, 0.05, blend=0.06),
        *pair(ball((0.28, -0.1, 0.14), (0.15, 0.05, 0.16), rotate_deg=(0, 0, -25))),
        *pair(ball((0.17, 0.1, 0.42), 0.11, "white")),
        *pair(ball((0.235, 0.11, 0.46), 0.075, "black")),
        ball((0, -0.1, 0.64), (0.1, 0.06, 0.05), "cream"),
    ]


def turtle(v: Draw) -> list[Part]:
    h = v(0.34, 0.42)
    return [
        ball((0, 0.22, -0.06), (0.5, h, 0.54), "brown"),
        box((0, 0.0, 0), (0.9, 0.13, 0.9), "tan", carve=True),
        torus((0, 0.2, -0.06), 0.45, 0.08, "tan"),
        ball((0, 0.43, 0.66), (0.28, 0.24, 0.25)),
        limb((0, 0.2, 0.38), (0, 0.38, 0.6), 0.14, 0.13, blend=0.04),
        *eyes(0.17, 0.52, 0.8, 0.105),
        *pair(ball((0.42, 0.12, 0.34), (0.17, 0.13, 0.17))),
        *pair(ball((0.42, 0.12, -0.42), (0.16, 0.12, 0.16))),
        limb((0, 0.18, -0.54), (0, 0.12, -0.76), 0.08, 0.03),
    ]


def dinosaur(v: Draw) -> list[Part]:
    tail = v(0.62, 0.8)
    return [
        ball((0, 0.7, 0), (0.3, 0.36, 0.4), rotate_deg=(-25, 0, 0)),
        limb((0, 0.64, -0.2), (0, 0.28, -tail), 0.24, 0.05, blend=0.1),
        limb((0, 0.88, 0.16), (0, 1.2, 0.26), 0.2, 0.2, blend=0.1),
        ball((0, 1.32, 0.38), (0.28, 0.24, 0.36)),
        *pair(ball((0.08, 1.32, 0.73), 0.03, "black")),
        *eyes(0.19, 1.44, 0.55, 0.12),
        *pair(limb((0.22, 0.5, -0.08), (0.26, 0.28, 0.1), 0.18, 0.13)),
        *pair(limb((0.26, 0.28, 0.1), (0.26, 0.06, 0.06), 0.12, 0.11)),
        *pair(ball((0.26, 0.05, 0.16), (0.12, 0.06, 0.18))),
        *pair(limb((0.22, 0.86, 0.26), (0.25, 0.7, 0.46), 0.075, 0.06)),
        *[
            cone((0, y, z), 0.11, 0.1, 0.01, "orange", rotate_deg=(-40, 0, 0))
            for y, z in ((1.2, 0.0), (0.98, -0.2), (0.8, -0.42))
        ],
    ]


# Food ------------------------------------------------------------------------------------------


def apple(v: Draw) -> list[Part]:
    r = v(0.46, 0.52)
    return [
        torus((0, 0.46, 0), r * 0.4, r * 0.62),
        ball((0, 0.34, 0), (r * 0.74, 0.32, r * 0.74), blend=0.1),
        limb((0, 0.6, 0), (0.06, 0.96, 0), 0.035, 0.04, "brown"),
        ball((0.17, 0.88, 0), (0.16, 0.035, 0.09), "green", rotate_deg=(0, 0, 20)),
    ]


def banana(v: Draw) -> list[Part]:
    sweep = v(58, 70)
    parts: list[Part] = []
    n = 7
    points = []
    for i in range(n + 1):
        a = math.radians(-sweep + 2 * sweep * i / n)
        points.append((0.9 * math.sin(a), 0.9 - 0.9 * math.cos(a), 0.0))
    radius = [0.07, 0.14, 0.18, 0.2, 0.2, 0.18, 0.13, 0.07]
    for i in range(n):
        parts.append(limb(points[i], points[i + 1], radius[i], radius[i + 1]))
    x, y, _ = points[-1]
    parts.append(limb((x, y, 0), (x + 0.06, y + 0.14, 0), 0.06, 0.05, "brown"))
    x, y, _ = points[0]
    parts.append(ball((x - 0.02, y + 0.04, 0), 0.06, "brown"))
    return parts


def carrot(v: Draw) -> list[Part]:
    return [
        cone((0, 0.5, 0), 0.55, 0.04, v(0.2, 0.26), rounding=0.03),
        limb((0, 1.0, 0), (0, 1.42, 0), 0.05, 0.06, "green"),
        *pair(limb((0, 1.0, 0), (0.2, 1.36, 0), 0.05, 0.06, "green")),
        limb((0, 1.0, 0), (0, 1.36, 0.2), 0.05, 0.06, "green"),
        limb((0, 1.0, 0), (0, 1.36, -0.2), 0.05, 0.06, "green"),
    ]


def donut(v: Draw) -> list[Part]:
    ring, tube = v(0.5, 0.56), v(0.22, 0.27)
    return [
        torus((0, 0.0, 0), ring, tube, "tan"),
        torus((0, 0.055, 0), ring, tube * 0.985),
    ]


def ice_cream(v: Draw) -> list[Part]:
    r = v(0.32, 0.38)
    return [
        cone((0, 0.45, 0), 0.48, 0.03, 0.32, "tan"),
        ball((0, 1.06, 0), (r, r * 0.95, r)),
        torus((0, 0.93, 0), r * 0.78, 0.1),
        ball((0, 1.06 + r, 0), 0.09, "red"),
    ]


def burger(v: Draw) -> list[Part]:
    h = v(0.26, 0.34)
    return [
        cone((0, 0.1, 0), 0.1, 0.5, 0.52, rounding=0.06),
        cone((0, 0.27, 0), 0.09, 0.55, 0.55, "brown", rounding=0.05),
        box((0, 0.385, 0), (0.48, 0.025, 0.48), "yellow", rotate_deg=(0, 45, 0)),
        cone((0, 0.45, 0), 0.05, 0.6, 0.57, "green", rounding=0.03),
        ball((0, 0.5, 0), (0.54, h, 0.54)),
    ]


def cake(v: Draw) -> list[Part]:
    h = v(0.16, 0.22)
    return [
        cone((0, h, 0), h, 0.6, 0.6, rounding=0.03),
        torus((0, 2 * h, 0), 0.52, 0.07, "white"),
        cone((0, 3 * h - 0.02, 0), h, 0.38, 0.38, rounding=0.03),
        torus((0, 4 * h, 0), 0.31, 0.06, "white"),
        cone((0, 4 * h + 0.16, 0), 0.18, 0.05, 0.05, "blue"),
        ball((0, 4 * h + 0.4, 0), (0.06, 0.09, 0.06), "yellow"),
    ]


def pumpkin(v: Draw) -> list[Part]:
    h = v(0.36, 0.42)
    lobes = []
    for i in range(8):
        a = math.radians(45 * i)
        lobes.append(ball((0.27 * math.sin(a), 0.4, 0.27 * math.cos(a)), (0.27, h, 0.27)))
    return [*lobes, limb((0, 0.7, 0), (0.06, 0.98, 0), 0.08, 0.06, "green")]


def mushroom(v: Draw) -> list[Part]:
    w = v(0.55, 0.65)
    return [
        ball((0, 0.6, 0), (w, 0.42, w)),
        box((0, 0.3, 0), (1, 0.28, 1), "cream", carve=True),
        cone((0, 0.3, 0), 0.34, 0.22, 0.19, "cream", rounding=0.05),
        ball((0, 0.98, 0.2), (0.12, 0.06, 0.12), "white", rotate_deg=(25, 0, 0)),
        *pair(ball((0.38, 0.84, 0.18), (0.11, 0.1, 0.11), "white")),
        *pair(ball((0.26, 0.88, -0.34), (0.11, 0.1, 0.11), "white")),
        ball((0, 0.76, 0.5), (0.11, 0.11, 0.09), "white"),
    ]


# Furniture -------------------------------------------------------------------------------------


def chair(v: Draw) -> list[Part]:
    seat, back, w = v(0.56, 0.66), v(0.66, 0.8), v(0.4, 0.48)
    z = w - 0.07
    return [
        *legs(w - 0.08, z, -z, seat, 0.065, 0.06),
        box((0, seat, 0), (w, 0.07, w)),
        box((0, seat + back / 2, -z), (w, back / 2 + 0.06, 0.07)),
    ]


def sofa(v: Draw) -> list[Part]:
    w = v(0.85, 1.0)
    return [
        box((0, 0.26, 0.02), (w, 0.16, 0.44), rounding=0.06),
        box((0, 0.6, -0.36), (w, 0.42, 0.13), rounding=0.09),
        *pair(box((w, 0.36, 0), (0.13, 0.28, 0.46), rounding=0.08)),
        *pair(box((0.43 * w, 0.44, 0.12), (0.4 * w, 0.07, 0.35), "tan", rounding=0.05)),
        *legs(w - 0.1, 0.32, -0.36, 0.12, 0.06, 0.05, color="brown"),
    ]


def table(v: Draw) -> list[Part]:
    w, d, h = v(0.75, 0.9), v(0.48, 0.58), v(0.6, 0.72)
    return [*legs(w - 0.1, d - 0.1, 0.1 - d, h, 0.065, 0.06), box((0, h, 0), (w, 0.07, d))]


def stool(v: Draw) -> list[Part]:
    h = v(0.75, 0.9)
    parts = [cone((0, h, 0), 0.07, 0.42, 0.42)]
    for i in range(4):
        a = math.radians(45 + 90 * i)
        x, z = math.sin(a), math.cos(a)
        parts.append(limb((0.26 * x, h, 0.26 * z), (0.4 * x, 0, 0.4 * z), 0.06, 0.055))
    parts.append(torus((0, 0.3 * h, 0), 0.36, 0.035))
    return parts


def lamp(v: Draw) -> list[Part]:
    h = v(0.75, 0.95)
    return [
        cone((0, 0.05, 0), 0.06, 0.34, 0.3, "black"),
        cone((0, h / 2, 0), h / 2, 0.05, 0.05, "black"),
        cone((0, h + 0.2, 0), 0.28, 0.46, 0.24),
    ]


def bed(v: Draw) -> list[Part]:
    length = v(0.85, 1.0)
    return [
        box((0, 0.22, 0), (0.58, 0.1, length), "brown"),
        box((0, 0.38, 0.05), (0.56, 0.12, length - 0.06), rounding=0.06),
        box((0, 0.5, 0.1 - length), (0.6, 0.5, 0.06), "brown"),
        box((0, 0.3, length), (0.6, 0.28, 0.05), "brown"),
        box((0, 0.54, 0.34 - length), (0.4, 0.09, 0.2), "white", rounding=0.08),
    ]


# Vehicles --------------------------------------------------------------------------------------


def wheels(x: float, z_front: float, z_back: float, r: float, y: float | None = None) -> list[Part]:
    y = r if y is None else y
    parts: list[Part] = []
    for z in (z_front, z_back):
        parts += pair(cone((x, y, z), 0.09, r, r, "black", rotate_deg=(0, 0, 90)))
        parts += pair(cone((x + 0.03, y, z), 0.08, r * 0.5, r * 0.5, "gray", rotate_deg=(0, 0, 90)))
    return parts


def car(v: Draw) -> list[Part]:
    length, roof = v(0.82, 0.95), v(0.26, 0.32)
    return [
        box((0, 0.36, 0), (0.4, 0.17, length), rounding=0.1),
        frustum(
            (0, 0.5 + roof / 2, -0.08), roof / 2 + 0.06, 0.36, 0.29, "lightblue", depth_ratio=1.4
        ),
        frustum((0, 0.56 + roof, -0.08), 0.05, 0.3, 0.27, depth_ratio=1.35),
        *wheels(0.36, length * 0.58, -length * 0.58, 0.19),
        *pair(ball((0.25, 0.4, length - 0.02), (0.09, 0.07, 0.05), "yellow")),
        *pair(ball((0.27, 0.4, -length + 0.02), (0.08, 0.06, 0.05), "red")),
    ]


def bus(v: Draw) -> list[Part]:
    length, h = v(0.95, 1.1), v(0.44, 0.52)
    return [
        box((0, 0.2 + h, 0), (0.38, h, length), rounding=0.07),
        *pair(box((0.36, 0.34 + h, -0.06), (0.04, 0.17, length - 0.16), "lightblue")),
        box((0, 0.34 + h, length - 0.02), (0.31, 0.18, 0.04), "lightblue"),
        *wheels(0.33, length * 0.6, -length * 0.6, 0.18),
        *pair(ball((0.24, 0.34, length), (0.07, 0.07, 0.04), "yellow")),
    ]


def train(v: Draw) -> list[Part]:
    length = v(0.85, 1.0)
    return [
        box((0, 0.32, 0), (0.34, 0.08, length), "black"),
        cone((0, 0.64, 0.2), length * 0.66, 0.28, 0.28, rotate_deg=(90, 0, 0)),
        box((0, 0.74, 0.3 - length), (0.36, 0.4, 0.3)),
        box((0, 1.17, 0.3 - length), (0.42, 0.05, 0.37), "black"),
        *pair(box((0.35, 0.88, 0.3 - length), (0.03, 0.14, 0.17), "lightblue")),
        cone((0, 1.02, length - 0.3), 0.2, 0.09, 0.14, "black"),
        ball((0, 0.92, 0.1), (0.12, 0.12, 0.12), "yellow"),
        *[
            p
            for z in (-0.55, -0.05, 0.45)
            for p in pair(cone((0.32, 0.2, z), 0.07, 0.2, 0.2, "red", rotate_deg=(0, 0, 90)))
        ],
        wedge((0, 0.2, length + 0.02), 0.14, 0.34, 0.3, 0.12, "red"),
    ]


def rocket(v: Draw) -> list[Part]:
    h = v(0.5, 0.62)
    parts = [
        cone((0, 0.35 + h, 0), h, 0.28, 0.28),
        cone((0, 0.33 + 2 * h + 0.26, 0), 0.28, 0.28, 0.02, "red"),
        cone((0, 0.24, 0), 0.12, 0.2, 0.26, "black"),
        ball((0, 0.5 + 1.3 * h, 0.25), (0.13, 0.13, 0.07), "lightblue"),
    ]
    for i in range(4):
        a = 45 + 90 * i
        x, z = math.sin(math.radians(a)), math.cos(math.radians(a))
        parts.append(
            box((0.36 * x, 0.36, 0.36 * z), (0.03, 0.28, 0.18), "red", rotate_deg=(0, a, 0))
        )
    return parts


def airplane(v: Draw) -> list[Part]:
    span, length = v(0.85, 1.0), v(0.75, 0.88)
    return [
        limb((0, 0, -length), (0, -0.02, length), 0.15, 0.22),
        *pair(box((0.52 * span, -0.04, 0.02), (0.5 * span, 0.055, 0.22), rotate_deg=(0, 14, 3))),
        *pair(box((0.26, 0.06, -length + 0.06), (0.28, 0.05, 0.15), rotate_deg=(0, 12, 0))),
        box((0, 0.32, -length), (0.05, 0.32, 0.18), "red", rotate_deg=(-18, 0, 0)),
        ball((0, 0.14, length - 0.2), (0.15, 0.12, 0.22), "lightblue"),
        *pair(cone((0.44, -0.16, 0.14), 0.17, 0.1, 0.11, "gray", rotate_deg=(90, 0, 0))),
    ]


def sailboat(v: Draw) -> list[Part]:
    mast = v(1.2, 1.4)
    return [
        ball((0, 0.3, 0), (0.28, 0.3, 0.8)),
        box((0, 0.65, 0), (1, 0.32, 1), carve=True),
        box((0, 0.3, 0), (0.2, 0.03, 0.6), "tan"),
        cone((0, 0.3 + mast / 2, 0.1), mast / 2, 0.035, 0.03, "brown"),
        wedge(
            (0, 0.4 + mast * 0.45, -0.26),
            mast * 0.42,
            0.34,
            0.02,
            0.025,
            "white",
            rotate_deg=(0, 90, 0),
        ),
        wedge(
            (0, 0.4 + mast * 0.36, 0.36),
            mast * 0.33,
            0.22,
            0.02,
            0.025,
            "white",
            rotate_deg=(0, 90, 0),
        ),
    ]


def balloon(v: Draw) -> list[Part]:
    r = v(0.56, 0.64)
    return [
        ball((0, 1.3, 0), (r, r, r)),
        cone((0, 0.78, 0), 0.2, 0.14, 0.44, blend=0.12),
        box((0, 0.14, 0), (0.16, 0.14, 0.16), "brown"),
        *[
            p
            for z in (-0.12, 0.12)
            for p in pair(limb((0.13, 0.25, z), (0.16, 0.66, z * 1.3), 0.02, 0.02, "brown"))
        ],
    ]


# Things ----------------------------------------------------------------------------------------


def mug(v: Draw) -> list[Part]:
    h, r = v(0.4, 0.5), v(0.4, 0.46)
    return [
        cone((0, h, 0), h, r, r, rounding=0.03),
        torus((r + 0.1, h, 0), 0.24, 0.075, rotate_deg=(90, 0, 0)),
        # White inside, with coffee: else, without shadows, a floor could as well be a lid. As high
        # as it stands, it is seen from most elevations.
        cone((0, h + 0.1, 0), h, r - 0.08, r - 0.08, "white", carve=True),
        cone((0, 0.75 * h, 0), 0.75 * h, r - 0.06, r - 0.06, "brown"),
    ]


def teapot(v: Draw) -> list[Part]:
    r = v(0.42, 0.48)
    return [
        ball((0, 0.42, 0), (r, 0.4, r)),
        ball((0, 0.8, 0), (0.26, 0.08, 0.26)),
        ball((0, 0.92, 0), 0.075),
        limb((r - 0.1, 0.3, 0), (r + 0.2, 0.5, 0), 0.12, 0.08),
        limb((r + 0.2, 0.5, 0), (r + 0.34, 0.8, 0), 0.08, 0.06),
        torus((-r - 0.04, 0.46, 0), 0.24, 0.055, rotate_deg=(90, 0, 0)),
        cone((0, 0.04, 0), 0.05, 0.26, 0.26),
    ]


def bottle(v: Draw) -> list[Part]:
    h = v(0.42, 0.5)
    return [
        cone((0, h, 0), h, 0.29, 0.29, rounding=0.05),
        cone((0, 2 * h + 0.12, 0), 0.16, 0.28, 0.1, rounding=0.03),
        cone((0, 2 * h + 0.38, 0), 0.2, 0.1, 0.1),
        cone((0, 2 * h + 0.58, 0), 0.08, 0.125, 0.125, "black"),
        cone((0, h, 0), h * 0.5, 0.3, 0.3, "white"),
    ]


def hat(v: Draw) -> list[Part]:
    h, brim = v(0.36, 0.46), v(0.62, 0.72)
    return [
        cone((0, 0.05, 0), 0.05, brim, brim, rounding=0.03),
        cone((0, h, 0), h, 0.38, 0.36, rounding=0.03),
        cone((0, 0.18, 0), 0.09, 0.4, 0.4, "red"),
    ]


def house(v: Draw) -> list[Part]:
    w, h, d = v(0.55, 0.65), v(0.36, 0.44), v(0.5, 0.6)
    return [
        box((0, h, 0), (w, h, d)),
        wedge((0, 2 * h + 0.26, 0), 0.28, w + 0.12, 0.02, d + 0.1, "red"),
        box((0, 0.26, d), (0.13, 0.26, 0.03), "brown"),
        *pair(box((0.36, 0.5, d), (0.11, 0.11, 0.03), "lightblue")),
        *pair(box((w, 0.48, 0), (0.03, 0.13, 0.16), "lightblue")),
        box((0.3, 2 * h + 0.4, -0.2), (0.09, 0.26, 0.09), "brown"),
    ]


def castle(v: Draw) -> list[Part]:
    w, h = v(0.48, 0.55), v(0.3, 0.38)
    parts = [box((0, h, 0), (w, h, w)), box((0, 0.2, w), (0.14, 0.22, 0.04), "brown")]
    for sx in (-1, 1):
        for sz in (-1, 1):
            parts.append(cone((sx * w, h + 0.14, sz * w), h + 0.16, 0.2, 0.2))
            parts.append(cone((sx * w, 2 * h + 0.54, sz * w), 0.26, 0.25, 0.01, "red"))
    parts.append(cone((0, h + 0.3, 0), h + 0.3, 0.22, 0.22))
    parts.append(cone((0, 2 * h + 0.9, 0), 0.3, 0.28, 0.01, "red"))
    return parts


def snowman(v: Draw) -> list[Part]:
    r = v(0.4, 0.46)
    return [
        ball((0, r, 0), r),
        ball((0, 2 * r + 0.18, 0), 0.32),
        ball((0, 2 * r + 0.66, 0), 0.24),
        cone((0, 2 * r + 0.66, 0.32), 0.14, 0.055, 0.01, "orange", rotate_deg=(90, 0, 0)),
        *eyes(0.09, 2 * r + 0.75, 0.21, 0.04),
        *[ball((0, 2 * r + y, z), 0.045, "black") for y, z in ((0.1, 0.32), (0.26, 0.32))],
        cone((0, 2 * r + 0.87, 0), 0.03, 0.32, 0.32, "black"),
        cone((0, 2 * r + 1.03, 0), 0.16, 0.2, 0.2, "black"),
        *pair(limb((0.28, 2 * r + 0.24, 0), (0.68, 2 * r + 0.46, 0), 0.035, 0.03, "brown")),
    ]


def robot(v: Draw) -> list[Part]:
    w = v(0.34, 0.42)
    return [
        box((0, 0.8, 0), (w, 0.36, 0.26)),
        box((0, 1.42, 0), (0.28, 0.22, 0.24)),
        cone((0, 1.19, 0), 0.06, 0.1, 0.1, "black"),
        *pair(ball((0.12, 1.46, 0.24), (0.075, 0.075, 0.05), "yellow")),
        box((0, 1.3, 0.24), (0.14, 0.03, 0.02), "black"),
        limb((0, 1.62, 0), (0, 1.82, 0), 0.03, 0.03, "black"),
        ball((0, 1.86, 0), 0.07, "red"),
        *pair(box((w + 0.12, 0.76, 0), (0.09, 0.34, 0.1))),
        *pair(box((0.18, 0.22, 0), (0.12, 0.26, 0.14))),
        *pair(box((0.18, 0.04, 0.05), (0.14, 0.06, 0.21), "black")),
        box((0, 0.86, 0.26), (0.18, 0.13, 0.03), "lightblue"),
    ]


def cactus(v: Draw) -> list[Part]:
    h = v(1.1, 1.3)
    return [
        cone((0, 0.14, 0), 0.16, 0.24, 0.32, "brown"),
        limb((0, 0.3, 0), (0, h, 0), 0.2, 0.18),
        limb((0.1, 0.62, 0), (0.44, 0.66, 0), 0.1, 0.1),
        limb((0.44, 0.66, 0), (0.46, 1.0, 0), 0.1, 0.1),
        limb((-0.1, 0.78, 0), (-0.42, 0.82, 0), 0.1, 0.1),
        limb((-0.42, 0.82, 0), (-0.44, 1.14, 0), 0.1, 0.1),
    ]


def pine_tree(v: Draw) -> list[Part]:
    w = v(0.52, 0.62)
    return [
        cone((0, 0.15, 0), 0.17, 0.12, 0.11, "brown"),
        cone((0, 0.52, 0), 0.28, w, 0.1),
        cone((0, 0.88, 0), 0.28, w * 0.78, 0.07),
        cone((0, 1.24, 0), 0.28, w * 0.56, 0.01),
    ]


def key(v: Draw) -> list[Part]:
    length = v(0.85, 1.0)
    return [
        torus((0, 1.0 + length - 0.7, 0), 0.26, 0.085, rotate_deg=(90, 0, 0)),
        cone((0, length / 2, 0), length / 2, 0.075, 0.075),
        box((0.17, 0.09, 0), (0.15, 0.06, 0.05)),
        box((0.14, 0.3, 0), (0.12, 0.06, 0.05)),
    ]


def hammer(v: Draw) -> list[Part]:
    length = v(0.55, 0.65)
    return [
        cone((0, length, 0), length, 0.085, 0.075, "brown", rounding=0.03),
        cone((0.16, 2 * length, 0), 0.22, 0.15, 0.15, rotate_deg=(0, 0, 90)),
        wedge((-0.24, 2 * length, 0), 0.24, 0.13, 0.03, 0.12, rotate_deg=(0, 0, 90)),
    ]


def star(v: Draw) -> list[Part]:
    t = v(0.13, 0.17)
    parts = [ball((0, 0, 0), (0.34, 0.34, t + 0.04))]
    for i in range(5):
        a = 72.0 * i
        x, y = math.sin(math.radians(a)), math.cos(math.radians(a))
        parts.append(
            frustum(
                (0.42 * x, 0.42 * y, 0),
                0.36,
                0.25,
                0.02,
                rotate_deg=(0, 0, -a),
                depth_ratio=t * 3.2,
            )
        )
    return parts


# Solids ----------------------------------------------------------------------------------------


def sphere(v: Draw) -> list[Part]:
    return [ball((0, 0, 0), 0.7)]


def cube(v: Draw) -> list[Part]:
    return [box((0, 0, 0), (0.5, 0.5, 0.5), rounding=v(0.01, 0.05))]


def cone_solid(v: Draw) -> list[Part]:
    return [cone((0, 0, 0), 0.65, v(0.46, 0.56), 0.01)]


def cylinder(v: Draw) -> list[Part]:
    return [cone((0, 0, 0), v(0.5, 0.6), 0.42, 0.42)]


def pyramid(v: Draw) -> list[Part]:
    return [frustum((0, 0, 0), v(0.42, 0.52), 0.6, 0.01)]


NOUNS: tuple[Noun, ...] = (
    Noun("corgi", corgi, "orange", ("dog", "puppy", "pup", "doggy", "doggie")),
    Noun("cat", cat, "gray", ("kitten", "kitty")),
    Noun("rabbit", rabbit, "white", ("bunny", "hare")),
    Noun("duck", duck, "yellow", ("duckling", "ducky", "rubber duck")),
    Noun("penguin", penguin, "black"),
    Noun("owl", owl, "brown", ("owlet",)),
    Noun("bear", bear, "brown", ("teddy", "teddy bear", "bear cub")),
    Noun("pig", pig, "pink", ("piglet", "piggy")),
    Noun("elephant", elephant, "gray"),
    Noun("fish", fish, "orange", ("goldfish",)),
    Noun("turtle", turtle, "green", ("tortoise", "sea turtle")),
    Noun("dinosaur", dinosaur, "green", ("dino", "t rex", "tyrannosaurus")),
    Noun("apple", apple, "red"),
    Noun("banana", banana, "yellow"),
    Noun("carrot", carrot, "orange"),
    Noun("donut", donut, "pink", ("doughnut",)),
    Noun("ice cream", ice_cream, "pink", ("ice cream cone",)),
    Noun("burger", burger, "tan", ("hamburger", "cheeseburger")),
    Noun("cake", cake, "pink", ("birthday cake", "layer cake")),
    Noun("pumpkin", pumpkin, "orange"),
    Noun("mushroom", mushroom, "red", ("toadstool",)),
    Noun("chair", chair, "brown", ("wooden chair", "seat")),
    Noun("sofa", sofa, "blue", ("couch", "settee")),
    Noun("table", table, "brown", ("desk", "dining table", "coffee table")),
    Noun("stool", stool, "brown", ("bar stool",)),
    Noun("lamp", lamp, "yellow", ("table lamp", "desk lamp", "bedside lamp")),
    Noun("bed", bed, "blue"),
    Noun("car", car, "red", ("automobile", "race car", "sports car")),
    Noun("bus", bus, "yellow", ("school bus",)),
    Noun("train", train, "green", ("locomotive", "steam train", "steam engine")),
    Noun("rocket", rocket, "white", ("spaceship", "rocket ship", "space ship", "space rocket")),
    Noun("airplane", airplane, "white", ("plane", "aeroplane", "aircraft")),
    Noun("sailboat", sailboat, "brown", ("boat", "ship", "sailing boat", "sailing ship", "yacht")),
    Noun("hot air balloon", balloon, "red", ("balloon",)),
    Noun("mug", mug, "blue", ("cup", "coffee mug", "coffee cup", "teacup", "tea mug")),
    Noun("teapot", teapot, "white"),
    Noun("bottle", bottle, "green", ("wine bottle", "water bottle", "beer bottle")),
    Noun("hat", hat, "black", ("top hat",)),
    Noun("house", house, "cream", ("cottage", "home")),
    Noun("castle", castle, "gray"),
    Noun("snowman", snowman, "white"),
    Noun("robot", robot, "gray", ("android", "droid")),
    Noun("cactus", cactus, "green"),
    Noun("pine tree", pine_tree, "green", ("tree", "christmas tree", "fir", "fir tree", "pine")),
    Noun("key", key, "yellow"),
    Noun("hammer", hammer, "gray"),
    Noun("star", star, "yellow"),
    Noun("ball", sphere, "red", ("sphere",)),
    Noun("cube", cube, "blue", ("box", "block")),
    Noun("cone", cone_solid, "orange", ("traffic cone",)),
    Noun("cylinder", cylinder, "green"),
    Noun("pyramid", pyramid, "yellow"),
)
