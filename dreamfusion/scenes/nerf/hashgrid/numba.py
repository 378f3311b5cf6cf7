"""The encoding as numba kernels, for the CPU. Float32; the gradient reaches the table only.

The forward pass is parallel over points, the backward pass over levels. No two threads add to the
same number, so results are bitwise equal for any number of threads.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Float32, Int64
from numba import njit
from torch import Tensor

from dreamfusion.scenes.nerf.hashgrid.layout import HashGridLayout
from dreamfusion.scenes.nerf.hashgrid.reference import PRIMES, KernelEncoding, check_inputs
from dreamfusion.utils.compiling import compiled
from dreamfusion.utils.threads import run_all, run_pieces

# Indexing with unsigned numbers needs no check for negative indices.
_ONE, _PRIME_Y, _PRIME_Z = np.uint64(1), np.uint64(PRIMES[1]), np.uint64(PRIMES[2])
# Points are processed in blocks, level by level, so that a level's rows stay in the cache.
_BLOCK = 512


@njit(inline="always")
def _locate(coordinate, resolution):  # type: ignore[no-untyped-def]
    """Cell index and fraction along one axis. NaN gives cell 0 and fraction NaN."""
    side = np.float32(resolution)
    scaled = (coordinate * np.float32(0.5) + np.float32(0.5)) * side
    cell = 0
    if scaled > np.float32(0.0):
        scaled = min(scaled, side)
        cell = min(int(scaled), resolution - 1)
    elif scaled <= np.float32(0.0):
        scaled = np.float32(0.0)
    return np.uint64(cell), scaled - np.float32(cell)


@njit(inline="always")
def _dense_rows(x, y, z, side, offset):  # type: ignore[no-untyped-def]
    """The rows of a cell's eight corners, in the order of the reference."""
    first = offset + x + side * (y + side * z)
    right = first + side
    back, both = first + side * side, right + side * side
    return (
        first, first + _ONE, right, right + _ONE, back, back + _ONE, both, both + _ONE,
    )  # fmt: skip


@njit(inline="always")
def _hashed_rows(x, y, z, mask, offset):  # type: ignore[no-untyped-def]
    """Like `_dense_rows`, for a hashed level."""
    x1 = x + _ONE
    y0, z0 = y * _PRIME_Y, z * _PRIME_Z
    y1, z1 = y0 + _PRIME_Y, z0 + _PRIME_Z
    first, right, back, both = y0 ^ z0, y1 ^ z0, y0 ^ z1, y1 ^ z1
    return (
        offset + ((x ^ first) & mask), offset + ((x1 ^ first) & mask),
        offset + ((x ^ right) & mask), offset + ((x1 ^ right) & mask),
        offset + ((x ^ back) & mask), offset + ((x1 ^ back) & mask),
        offset + ((x ^ both) & mask), offset + ((x1 ^ both) & mask),
    )  # fmt: skip


@njit(inline="always")
def _cell(points, p, resolution):  # type: ignore[no-untyped-def]
    """The cell of point p, three numbers, and the weights of its eight corners."""
    x, fx = _locate(points[p, 0], resolution)
    y, fy = _locate(points[p, 1], resolution)
    z, fz = _locate(points[p, 2], resolution)
    one = np.float32(1.0)
    gx, gy, gz = one - fx, one - fy, one - fz
    first, right, back, both = gy * gz, fy * gz, gy * fz, fy * fz
    weights = (
        gx * first, fx * first, gx * right, fx * right,
        gx * back, fx * back, gx * both, fx * both,
    )  # fmt: skip
    return x, y, z, weights


@njit(inline="always")
def _gather(table, r, w, n_features, out, p, column):  # type: ignore[no-untyped-def]
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


@njit(inline="always")
def _scatter(grad_out, p, column, n_features, r, w, grad_table):  # type: ignore[no-untyped-def]
    for f in range(n_features):
        grad = grad_out[p, column + f]
        for c in range(8):
            grad_table[r[c], f] += w[c] * grad


@lru_cache
def _kernels(n_features: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Forward and backward kernels with the number of features as a compile-time constant."""

    @compiled(nogil=True, error_model="numpy", fastmath={"contract"})
    def forward(start, stop, points, table, levels, out):  # type: ignore[no-untyped-def]
        for block in range(start, stop, _BLOCK):
            block_end = min(block + _BLOCK, stop)
            for level in range(levels.shape[0]):
                resolution = levels[level, 0]
                side = np.uint64(resolution + 1)
                mask, offset = np.uint64(levels[level, 1]), np.uint64(levels[level, 2])
                column = level * n_features
                if mask == 0:
                    for p in range(block, block_end):
                        x, y, z, w = _cell(points, p, resolution)
                        r = _dense_rows(x, y, z, side, offset)
                        _gather(table, r, w, n_features, out, p, column)
                else:
                    for p in range(block, block_end):
                        x, y, z, w = _cell(points, p, resolution)
                        r = _hashed_rows(x, y, z, mask, offset)
                        _gather(table, r, w, n_features, out, p, column)

    @compiled(nogil=True, error_model="numpy", fastmath={"contract"})
    def backward(points, grad_out, levels, grad_table, level):  # type: ignore[no-untyped-def]
        resolution = levels[level, 0]
        side = np.uint64(resolution + 1)
        mask, offset = np.uint64(levels[level, 1]), np.uint64(levels[level, 2])
        column = level * n_features
        if mask == 0:
            for p in range(points.shape[0]):
                x, y, z, w = _cell(points, p, resolution)
                r = _dense_rows(x, y, z, side, offset)
                _scatter(grad_out, p, column, n_features, r, w, grad_table)
        else:
            for p in range(points.shape[0]):
                x, y, z, w = _cell(points, p, resolution)
                r = _hashed_rows(x, y, z, mask, offset)
                _scatter(grad_out, p, column, n_features, r, w, grad_table)

    return forward, backward


@lru_cache
def _level_array(layout: HashGridLayout) -> Int64[np.ndarray, "levels 3"]:
    """Resolution, hash mask (0: dense), offset."""
    rows = [(v.resolution, 0 if v.dense else v.size - 1, v.offset) for v in layout.levels]
    return np.array(rows, dtype=np.int64)


def _launch(
    points: Tensor, table: Tensor, values: Tensor, layout: HashGridLayout, *, backward: bool
) -> None:
    forward_kernel, backward_kernel = _kernels(layout.n_features)
    x, rows, levels, out = points.numpy(), table.numpy(), _level_array(layout), values.numpy()
    if not backward:
        run_pieces(forward_kernel, len(x), x, rows, levels, out, at_least=1024)
        return
    # Fine levels have the most cache misses and take longest, so they start first.
    order = reversed(range(len(levels)))
    run_all([partial(backward_kernel, x, out, levels, rows, level) for level in order])


def encode_numba(
    points: Float32[Tensor, "n 3"], table: Float32[Tensor, "rows features"], layout: HashGridLayout
) -> Float32[Tensor, "n outputs"]:
    """`encode_reference` for float32 tensors on the CPU, differentiable in the table only. Raises
    ValueError for other tensors: see `check_inputs`."""
    check_inputs("numba", points, table, layout)
    if table.device.type != "cpu":
        raise ValueError(f"the numba hash grid runs on the CPU; the tensors are on {table.device}")
    return KernelEncoding.apply(points.detach().contiguous(), table.contiguous(), layout, _launch)
