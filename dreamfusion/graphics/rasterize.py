"""Rasterises triangles with a depth buffer, without OpenGL: for textures and images of meshes."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from dreamfusion.utils.compiling import compiled


def rasterize(
    corners: Float64[np.ndarray, "faces 3 2"],
    inverse_depth: Float64[np.ndarray, "faces 3"],
    height: int,
    width: int,
) -> tuple[Int64[np.ndarray, "{height} {width}"], Float64[np.ndarray, "{height} {width} 3"]]:
    """The index of the triangle that is visible at each pixel's centre, -1 for none, and the
    perspective-correct barycentric weights of its corners.

    corners: (x, y) in pixels, y downwards; the centre of pixel (i, j) is (j + 0.5, i + 0.5).
    inverse_depth: 1 / depth of the corners; the largest value is visible. Triangles with a corner
    that is not positive (behind the camera) are skipped. Points on an edge belong to the triangle;
    both windings are drawn.
    """
    face_of = np.full((height, width), -1, dtype=np.int64)
    weights = np.zeros((height, width, 3))
    nearest = np.zeros((height, width))
    _fill(
        np.ascontiguousarray(corners, dtype=np.float64),
        np.ascontiguousarray(inverse_depth, dtype=np.float64),
        face_of,
        weights,
        nearest,
    )
    return face_of, weights


@compiled()
def _fill(corners: Any, inverse_depth: Any, face_of: Any, weights: Any, nearest: Any) -> None:
    height, width = face_of.shape
    for face in range(corners.shape[0]):
        ia, ib, ic = inverse_depth[face, 0], inverse_depth[face, 1], inverse_depth[face, 2]
        if min(ia, ib, ic) <= 0.0:
            continue
        ax, ay = corners[face, 0, 0] - 0.5, corners[face, 0, 1] - 0.5
        bx, by = corners[face, 1, 0] - 0.5, corners[face, 1, 1] - 0.5
        cx, cy = corners[face, 2, 0] - 0.5, corners[face, 2, 1] - 0.5
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0 or not math.isfinite(area):
            continue
        top, left = max(math.ceil(min(ay, by, cy)), 0), max(math.ceil(min(ax, bx, cx)), 0)
        bottom = min(math.floor(max(ay, by, cy)), height - 1)
        right = min(math.floor(max(ax, bx, cx)), width - 1)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                a = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                b = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                c = 1.0 - a - b
                if a < 0.0 or b < 0.0 or c < 0.0:
                    continue
                near = a * ia + b * ib + c * ic  # 1 / depth is linear in the image
                if near > nearest[y, x]:
                    nearest[y, x] = near
                    face_of[y, x] = face
                    weights[y, x, 0] = a * ia / near
                    weights[y, x, 1] = b * ib / near
                    weights[y, x, 2] = c * ic / near
