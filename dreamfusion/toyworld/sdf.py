"""Signed distances and sphere tracing of lists of parts, compiled by numba for the CPU.

The union is a lower bound of the distance with the exact sign. This suffices for tracing and for
marching cubes, but not for offset surfaces far away.
"""

import math
from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

from dreamfusion.toyworld.parts import (
    BOX,
    CONE,
    ELLIPSOID,
    FRUSTUM,
    LIMB,
    TORUS,
    WEDGE,
    Part,
    rotation_matrix,
)
from dreamfusion.utils.compiling import compiled

# Columns of a part table: kind, carve, blend, colour, centre (3), rotation (9), params (5), and the
# radius of a sphere around the centre that contains the part.
_KIND, _CARVE, _BLEND, _COLOR, _CENTRE, _ROTATION, _PARAMS, _RADIUS = 0, 1, 2, 3, 4, 7, 16, 21
# Sphere tracing: maximum number of steps, step length relative to the distance (which blends
# overestimate), hit distance, and spacing of finite differences for normals, both in scene units.
_TRACE_STEPS, _TRACE_SHARE, _HIT_DISTANCE, _NORMAL_EPSILON = 160, 0.9, 1e-3, 2e-3


def part_table(parts: Sequence[Part], color_of: dict[str, int]) -> NDArray[np.float32]:
    """Convert parts to a (n_parts, 22) float32 table for the compiled functions.

    color_of: index of each part colour; 0 is reserved for empty space.
    """
    table = np.zeros((len(parts), _RADIUS + 1), dtype=np.float32)
    for row, part in zip(table, parts, strict=True):
        row[_KIND], row[_CARVE], row[_BLEND] = part.kind, part.carve, part.blend
        row[_COLOR] = color_of[part.color]
        row[_CENTRE:_ROTATION] = part.at
        row[_ROTATION:_PARAMS] = rotation_matrix(part.rotate_deg).T.reshape(-1)
        row[_PARAMS : _PARAMS + len(part.params)] = part.params
        row[_RADIUS] = _bounding_radius(part)
    return table


def _bounding_radius(part: Part) -> float:
    a, b, c, d, e = (*part.params, 0.0, 0.0, 0.0, 0.0)[:5]
    if part.kind == LIMB:
        return math.sqrt(a * a + b * b + c * c) + max(d, e)
    if part.kind == TORUS:
        return a + b
    if part.kind == CONE:
        return math.hypot(a, max(b, c))
    if part.kind == FRUSTUM:
        return math.hypot(a, max(b, c) * math.hypot(1.0, e))
    if part.kind == WEDGE:
        return math.sqrt(a * a + max(b, c) ** 2 + d * d)
    return max(a, b, c) if part.kind == ELLIPSOID else math.sqrt(a * a + b * b + c * c)


@compiled(fastmath=True, error_model="numpy")
def _frustum_2d(q: float, y: float, h: float, r1: float, r2: float) -> float:
    """Distance to the trapezoid |y| <= h, 0 <= q <= radius going from r1 (bottom) to r2 (top)."""
    k1x, k1y = r2, h
    k2x, k2y = r2 - r1, 2.0 * h
    cap = q - min(q, r1 if y < 0.0 else r2)
    ca_x, ca_y = cap, abs(y) - h
    t = ((k1x - q) * k2x + (k1y - y) * k2y) / max(k2x * k2x + k2y * k2y, 1e-12)
    t = min(max(t, 0.0), 1.0)
    cb_x, cb_y = q - k1x + k2x * t, y - k1y + k2y * t
    inside = cb_x < 0.0 and ca_y < 0.0
    d2 = min(ca_x * ca_x + ca_y * ca_y, cb_x * cb_x + cb_y * cb_y)
    return -math.sqrt(d2) if inside else math.sqrt(d2)


@compiled(fastmath=True, error_model="numpy")
def _primitive(row: NDArray[np.float32], x: float, y: float, z: float) -> float:
    dx, dy, dz = x - row[_CENTRE], y - row[_CENTRE + 1], z - row[_CENTRE + 2]
    kind = int(row[_KIND])
    p = row[_PARAMS:_RADIUS]
    a, b, c, d, e = p[0], p[1], p[2], p[3], p[4]
    if kind == LIMB:  # no rotation: its end point defines the direction
        t = (dx * a + dy * b + dz * c) / max(a * a + b * b + c * c, 1e-12)
        t = min(max(t, 0.0), 1.0)
        gx, gy, gz = dx - t * a, dy - t * b, dz - t * c
        return math.sqrt(gx * gx + gy * gy + gz * gz) - (d + t * (e - d))
    r = row[_ROTATION:_PARAMS]
    px = r[0] * dx + r[1] * dy + r[2] * dz
    py = r[3] * dx + r[4] * dy + r[5] * dz
    pz = r[6] * dx + r[7] * dy + r[8] * dz
    if kind == ELLIPSOID:
        ux, uy, uz = px / a, py / b, pz / c
        k0 = math.sqrt(ux * ux + uy * uy + uz * uz)
        vx, vy, vz = ux / a, uy / b, uz / c
        k1 = math.sqrt(vx * vx + vy * vy + vz * vz)
        if k1 < 1e-9:
            return -min(a, min(b, c))
        return k0 * (k0 - 1.0) / k1
    if kind == BOX:
        qx, qy, qz = abs(px) - a + d, abs(py) - b + d, abs(pz) - c + d
        ox, oy, oz = max(qx, 0.0), max(qy, 0.0), max(qz, 0.0)
        return math.sqrt(ox * ox + oy * oy + oz * oz) + min(max(qx, max(qy, qz)), 0.0) - d
    if kind == CONE:
        q = math.sqrt(px * px + pz * pz)
        return _frustum_2d(q, py, a - d, max(b - d, 0.0), max(c - d, 0.0)) - d
    if kind == TORUS:
        q = math.sqrt(px * px + pz * pz) - a
        return math.sqrt(q * q + py * py) - b
    if kind == FRUSTUM:
        q = max(abs(px), abs(pz) / e)
        return (_frustum_2d(q, py, a - d, max(b - d, 0.0), max(c - d, 0.0)) - d) * min(1.0, e)
    flat = _frustum_2d(abs(px), py, a, b, c)  # a wedge
    return max(flat, abs(pz) - d)


@compiled(fastmath=True, error_model="numpy")
def _distance(table: NDArray[np.float32], x: float, y: float, z: float) -> tuple[float, int]:
    """Distance bound and colour index at a point in the object frame."""
    best = 1e9
    color = 0
    nearest = 1e9
    for i in range(table.shape[0]):
        row = table[i]
        carve = row[_CARVE] > 0.5
        # Beyond this distance, the part has no effect.
        reach = row[_RADIUS] if carve else nearest + row[_BLEND] + row[_RADIUS]
        ex, ey, ez = x - row[_CENTRE], y - row[_CENTRE + 1], z - row[_CENTRE + 2]
        if reach > 0.0 and ex * ex + ey * ey + ez * ez > reach * reach:
            continue
        d = _primitive(row, x, y, z)
        if carve:
            if -d > best:
                best = nearest = -d
                color = int(row[_COLOR])
            continue
        if d < nearest:
            nearest = d
            color = int(row[_COLOR])
        k = row[_BLEND]
        if k > 0.0 and best < 1e8:
            h = max(k - abs(best - d), 0.0) / k
            best = min(best, d) - h * h * k * 0.25
        else:
            best = min(best, d)
    return best, color


@compiled(parallel=True, fastmath=True, error_model="numpy")
def signed_distance(
    table: NDArray[np.float32], points: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Distance bound (n,), negative inside, and colour index (n,) at points (n, 3).

    Points are in the frame of the object's parts.
    """
    n = points.shape[0]
    distance = np.empty(n, np.float32)
    color = np.empty(n, np.uint8)
    for i in numba.prange(n):
        d, c = _distance(table, points[i, 0], points[i, 1], points[i, 2])
        distance[i] = d
        color[i] = c
    return distance, color


@compiled(parallel=True, fastmath=True, error_model="numpy")
def trace(
    table: NDArray[np.float32],
    scale: NDArray[np.float32],
    centre: NDArray[np.float32],
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    bound: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]:
    """Sphere tracing of contiguous rays (n, 3) through the object placed at `scale * (p - centre)`.

    Returns depth (n,), inf where a ray misses; outward unit normals (n, 3); colour index (n,),
    0 where a ray misses. Geometry outside the sphere of radius `bound` is ignored.
    """
    n = origins.shape[0]
    depth = np.full(n, np.inf, np.float32)
    normals = np.zeros((n, 3), np.float32)
    colors = np.zeros(n, np.uint8)
    shrink = min(scale[0], min(scale[1], scale[2]))
    for i in numba.prange(n):
        ox, oy, oz = origins[i, 0], origins[i, 1], origins[i, 2]
        vx, vy, vz = directions[i, 0], directions[i, 1], directions[i, 2]
        b = ox * vx + oy * vy + oz * vz
        disc = b * b - (ox * ox + oy * oy + oz * oz - bound * bound)
        if disc <= 0.0:
            continue
        root = math.sqrt(disc)
        t = max(-b - root, 0.0)
        far = -b + root
        hit = False
        color = 0
        for _ in range(_TRACE_STEPS):
            x = (ox + t * vx) / scale[0] + centre[0]
            y = (oy + t * vy) / scale[1] + centre[1]
            z = (oz + t * vz) / scale[2] + centre[2]
            d, color = _distance(table, x, y, z)
            d *= shrink
            if d < _HIT_DISTANCE:
                hit = True
                break
            t += _TRACE_SHARE * d
            if t > far:
                break
        if not hit:
            continue
        depth[i] = t
        colors[i] = color
        nx, ny, nz = 0.0, 0.0, 0.0
        for k in range(4):  # the four corners of a tetrahedron
            sx = 1.0 if k == 0 or k == 3 else -1.0
            sy = 1.0 if k == 1 or k == 3 else -1.0
            sz = 1.0 if k == 2 or k == 3 else -1.0
            x = (ox + t * vx + _NORMAL_EPSILON * sx) / scale[0] + centre[0]
            y = (oy + t * vy + _NORMAL_EPSILON * sy) / scale[1] + centre[1]
            z = (oz + t * vz + _NORMAL_EPSILON * sz) / scale[2] + centre[2]
            d, _c = _distance(table, x, y, z)
            nx += sx * d
            ny += sy * d
            nz += sz * d
        length = math.sqrt(nx * nx + ny * ny + nz * nz)
        if length > 0.0:
            normals[i, 0], normals[i, 1], normals[i, 2] = nx / length, ny / length, nz / length
    return depth, normals, colors
