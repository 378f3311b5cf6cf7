"""The numba kernel of `triangles.rasterize`, for the CPU."""

import math
from typing import Any

import numpy as np

from dreamfusion.utils.compiling import compiled


@compiled(nogil=True, error_model="numpy")
def fill(start: Any, stop: Any, points: Any, faces: Any, face_of: Any) -> None:
    """Draw all faces into the views from `start` to `stop`. face_of: (views, h, w), -1 at first.

    A pixel's centre is inside if it is on the same side of all three edges. Both faces that share
    an edge compute exactly opposite numbers for it, so that no gap opens between them.
    """
    height, width = face_of.shape[1:]
    for view in range(start, stop):
        nearest = np.zeros((height, width), points.dtype)
        of_view = face_of[view]
        for face in range(len(faces)):
            a, b, c = faces[face, 0], faces[face, 1], faces[face, 2]
            ax, ay, ia = points[view, a, 0], points[view, a, 1], points[view, a, 2]
            bx, by, ib = points[view, b, 0], points[view, b, 1], points[view, b, 2]
            cx, cy, ic = points[view, c, 0], points[view, c, 1], points[view, c, 2]
            if not (ia > 0.0 and ib > 0.0 and ic > 0.0):
                continue
            left, right = max(min(ax, bx, cx), 0.5), min(max(ax, bx, cx), width - 0.5)
            top, bottom = max(min(ay, by, cy), 0.5), min(max(ay, by, cy), height - 0.5)
            if not (left <= right and top <= bottom):
                continue
            x0, x1 = math.ceil(left - 0.5), math.floor(right - 0.5)
            y0, y1 = math.ceil(top - 0.5), math.floor(bottom - 0.5)
            if x0 > x1 or y0 > y1:
                continue
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            if area == 0.0 or not math.isfinite(area):
                continue
            sign = 1.0 if area > 0.0 else -1.0
            for y in range(y0, y1 + 1):
                pay, pby, pcy = ay - (y + 0.5), by - (y + 0.5), cy - (y + 0.5)
                for x in range(x0, x1 + 1):
                    pax, pbx, pcx = ax - (x + 0.5), bx - (x + 0.5), cx - (x + 0.5)
                    u = (pbx * pcy - pby * pcx) * sign
                    v = (pcx * pay - pcy * pax) * sign
                    w = (pax * pby - pay * pbx) * sign
                    if u >= 0.0 and v >= 0.0 and w >= 0.0:
                        near = (u * ia + v * ib + w * ic) / (u + v + w)
                        if near > nearest[y, x]:
                            nearest[y, x], of_view[y, x] = near, face
