"""Ray marching as a numba kernel, for the CPU: bitwise the same samples as the reference."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32
from numba import njit
from torch import Tensor

from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching.reference import Samples
from dreamfusion.utils.compiling import compiled
from dreamfusion.utils.threads import run_pieces


@njit(inline="always")
def _box_interval(origins, directions, ray, low, high):  # type: ignore[no-untyped-def]
    """Where a ray enters and leaves the box between the corners low and high."""
    near, far = np.float32(0.0), np.float32(np.inf)
    for axis in range(3):
        o, d = origins[ray, axis], directions[ray, axis]
        if abs(d) < np.float32(1e-9):
            if o < low[axis] or o > high[axis]:
                far = np.float32(-np.inf)
            continue
        one, two = (low[axis] - o) / d, (high[axis] - o) / d
        near = max(near, min(one, two))
        far = min(far, max(one, two))
    return near, far


# No fastmath: a fused multiply-add would change the last bit of samples.
@compiled(nogil=True, error_model="numpy")
def _march(  # type: ignore[no-untyped-def]
    start, stop, origins, directions, jitter, occupied, bound, low, high, step, max_bound,
    offsets, fill, positions, t_out, index,
):  # fmt: skip
    """Count the samples of rays start..stop into offsets[ray + 1], or write them if `fill`.

    low, high: corners of a box that contains all occupied cells; steps outside it are skipped.
    """
    resolution = occupied.shape[0]
    half, one = np.float32(0.5), np.float32(1.0)
    corner = (one, one, one)
    opposite = (-one, -one, -one)
    for ray in range(start, stop):
        enters, leaves = _box_interval(origins, directions, ray, low, high)
        if not enters < leaves:
            if not fill:
                offsets[ray + 1] = 0
            continue
        near, far = _box_interval(origins, directions, ray, opposite, corner)
        far = min(far, leaves)
        n = 0
        k = max(0, int((enters - near) / step - jitter[ray]))
        t = near + (np.float32(k) + jitter[ray]) * step
        before = 0.0
        while t < far and before <= max_bound:
            x = origins[ray, 0] + t * directions[ray, 0]
            y = origins[ray, 1] + t * directions[ray, 1]
            z = origins[ray, 2] + t * directions[ray, 2]
            if abs(x) <= one and abs(y) <= one and abs(z) <= one:
                i = min(int((x * half + half) * np.float32(resolution)), resolution - 1)
                j = min(int((y * half + half) * np.float32(resolution)), resolution - 1)
                m = min(int((z * half + half) * np.float32(resolution)), resolution - 1)
                if occupied[i, j, m]:
                    if fill:
                        row = offsets[ray] + n
                        positions[row, 0] = x
                        positions[row, 1] = y
                        positions[row, 2] = z
                        t_out[row] = t
                        index[row] = ray
                    n += 1
                before += bound[i, j, m]
            k += 1
            t = near + (np.float32(k) + jitter[ray]) * step
        if not fill:
            offsets[ray + 1] = n


def _bounds(occupied: Bool[np.ndarray, "x y z"]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Opposite corners of a box around the occupied cells, with a margin for rounding errors; equal
    corners if no cell is occupied."""
    corners = np.empty((2, 3), np.float32)
    for axis, other_axes in enumerate(((1, 2), (0, 2), (0, 1))):
        cells = np.flatnonzero(occupied.any(axis=other_axes))
        ends = (cells[0], cells[-1] + 1) if len(cells) else (0, 0)
        corners[:, axis] = np.array(ends) * (2.0 / len(occupied)) - 1.0
    return tuple(corners[0] - np.float32(1e-3)), tuple(corners[1] + np.float32(1e-3))


def march_numba(
    origins: Float32[Tensor, "rays 3"],
    directions: Float32[Tensor, "rays 3"],
    jitter: Float32[Tensor, " rays"],
    occupancy: OccupancyGrid,
    step: float,
    max_depth: float,
) -> Samples:
    """`ray_marching.march_rays` for finite float32 tensors on the CPU."""
    n = origins.shape[0]
    tensors = (origins, directions, jitter, occupancy.occupied, occupancy.lower_bound)
    *rays, occupied, bound = (tensor.contiguous().numpy() for tensor in tensors)
    inputs = (*rays, occupied, bound, *_bounds(occupied), np.float32(step), max_depth / step)
    offsets = torch.zeros(n + 1, dtype=torch.int64)

    def run(fill: bool, positions: Tensor, t: Tensor, index: Tensor) -> None:
        outputs = (offsets.numpy(), fill, positions.numpy(), t.numpy(), index.numpy())
        run_pieces(_march, n, *inputs, *outputs, at_least=256)

    run(False, torch.empty(0, 3), torch.empty(0), torch.empty(0, dtype=torch.int64))
    offsets = offsets.cumsum(0)
    m = int(offsets[-1])
    positions, t = torch.empty(m, 3), torch.empty(m)
    index = torch.empty(m, dtype=torch.int64)
    run(True, positions, t, index)
    return Samples(positions=positions, t=t, ray_index=index, offsets=offsets, step=step)
