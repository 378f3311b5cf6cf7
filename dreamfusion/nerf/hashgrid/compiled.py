"""The encoding as numba kernels, for the CPU. Float32; the gradient reaches the table only.

Forward is parallel over points, backward over levels: no two threads ever add to the same number,
so results are the same to the bit whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from dreamfusion.nerf.hashgrid.layout import HashGridLayout
from dreamfusion.nerf.hashgrid.reference import PRIMES, check_inputs
from dreamfusion.utils.threads import ranges, run_all

_PRIME_Y, _PRIME_Z = PRIMES[1], PRIMES[2]
# Points are taken in blocks, level by level, so that a level's rows stay in the cache.
_BLOCK = 512


@njit(inline="always")
def _locate(coordinate, resolution):  # type: ignore[no-untyped-def]
    """Cell index and fraction along one axis. NaN gives cell 0 and fraction NaN."""
    scaled = coordinate * np.float32(0.5) + np.float32(0.5)
    if scaled < np.float32(0.0):
        scaled = np.float32(0.0)
    elif scaled > np.float32(1.0):
        scaled = np.float32(1.0)
    scaled = scaled * np.float32(resolution)
    cell = 0
    if scaled > np.float32(0.0):
        cell = min(int(scaled), resolution - 1)
    return cell, scaled - np.float32(cell)


@njit(inline="always")
def _row(x, y, z, side, mask):  # type: ignore[no-untyped-def]
    if mask == 0:
        return x + side * (y + side * z)
    return (x ^ (y * _PRIME_Y) ^ (z * _PRIME_Z)) & mask


@njit(inline="always")
def _corners(points, p, resolution, mask, offset):  # type: ignore[no-untyped-def]
    """The eight rows and weights of point p, in the order of the reference."""
    x, fx = _locate(points[p, 0], resolution)
    y, fy = _locate(points[p, 1], resolution)
    z, fz = _locate(points[p, 2], resolution)
    side = resolution + 1
    one = np.float32(1.0)
    gx, gy, gz = one - fx, one - fy, one - fz
    rows = (
        offset + _row(x, y, z, side, mask),
        offset + _row(x + 1, y, z, side, mask),
        offset + _row(x, y + 1, z, side, mask),
        offset + _row(x + 1, y + 1, z, side, mask),
        offset + _row(x, y, z + 1, side, mask),
        offset + _row(x + 1, y, z + 1, side, mask),
        offset + _row(x, y + 1, z + 1, side, mask),
        offset + _row(x + 1, y + 1, z + 1, side, mask),
    )
    weights = (
        gx * gy * gz,
        fx * gy * gz,
        gx * fy * gz,
        fx * fy * gz,
        gx * gy * fz,
        fx * gy * fz,
        gx * fy * fz,
        fx * fy * fz,
    )
    return rows, weights


@lru_cache
def _kernels(n_features: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Forward and backward kernels with the number of features as a compile-time constant."""

    @njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
    def forward(points, table, levels, out, start, stop):  # type: ignore[no-untyped-def]
        for block in range(start, stop, _BLOCK):
            block_end = min(block + _BLOCK, stop)
            for level in range(levels.shape[0]):
                resolution, mask, offset = levels[level, 0], levels[level, 1], levels[level, 2]
                column = level * n_features
                for p in range(block, block_end):
                    r, w = _corners(points, p, resolution, mask, offset)
                    for f in range(n_features):
                        out[p, column + f] = (
                            w[0] * table[r[0], f]
                            + w[1] * table[r[1], f]
                            + w[2] * table[r[2], f]
                            + w[3] * table[r[3], f]
                            + w[4] * table[r[4], f]
                            + w[5] * table[r[5], f]
                            + w[6] * table[r[6], f]
                            + w[7] * table[r[7], f]
                        )

    @njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
    def backward(points, grad_out, levels, grad_table, level):  # type: ignore[no-untyped-def]
        resolution, mask, offset = levels[level, 0], levels[level, 1], levels[level, 2]
        column = level * n_features
        for p in range(points.shape[0]):
            r, w = _corners(points, p, resolution, mask, offset)
            for c in range(8):
                for f in range(n_features):
                    grad_table[r[c], f] += w[c] * grad_out[p, column + f]

    return forward, backward


@lru_cache
def _level_array(layout: HashGridLayout) -> np.ndarray:
    """(n_levels, 3) int64: resolution, hash mask (0: dense), offset."""
    rows = [(v.resolution, 0 if v.dense else v.size - 1, v.offset) for v in layout.levels]
    return np.array(rows, dtype=np.int64)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
        out = torch.empty(points.shape[0], layout.n_outputs)
        kernel, _ = _kernels(layout.n_features)
        arguments = (points.numpy(), table.numpy(), _level_array(layout), out.numpy())
        pieces = ranges(points.shape[0], at_least=1024)
        run_all([partial(kernel, *arguments, start, stop) for start, stop in pieces])
        ctx.save_for_backward(points)
        ctx.layout = layout
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[None, Tensor, None]:
        (points,) = ctx.saved_tensors
        layout: HashGridLayout = ctx.layout
        grad_table = torch.zeros(layout.n_rows, layout.n_features)
        _, kernel = _kernels(layout.n_features)
        arguments = (
            points.numpy(),
            grad_out.contiguous().numpy(),
            _level_array(layout),
            grad_table.numpy(),
        )
        # Fine levels miss the cache most and take longest: they go first.
        levels = reversed(range(len(layout.levels)))
        run_all([partial(kernel, *arguments, level) for level in levels])
        return None, grad_table, None


def encode_numba(points: Tensor, table: Tensor, layout: HashGridLayout) -> Tensor:
    """As `encode_reference`, for float32 tensors on the CPU, differentiable in the table only.

    Raises ValueError for others: see `check_inputs`.
    """
    check_inputs("numba", points, table, layout)
    if table.device.type != "cpu":
        raise ValueError(f"the numba hash grid runs on the CPU; the tensors are on {table.device}")
    return _Encode.apply(points.detach().contiguous(), table.contiguous(), layout)
