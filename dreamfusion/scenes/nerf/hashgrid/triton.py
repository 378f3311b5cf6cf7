"""The encoding as Triton kernels, for CUDA. Float32; the gradient reaches the table only.

One program encodes a block of points for one level. The backward pass uses atomic additions, so
gradients, and therefore runs on a GPU, are not bitwise reproducible.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from jaxtyping import Float32, Int32
from torch import Tensor

from dreamfusion.scenes.nerf.hashgrid.layout import HashGridLayout
from dreamfusion.scenes.nerf.hashgrid.reference import PRIMES, KernelEncoding, check_inputs

_PRIME_Y, _PRIME_Z = tl.constexpr(PRIMES[1]), tl.constexpr(PRIMES[2])
_BLOCK = 128


@triton.jit
def _locate(coordinate, resolution):  # type: ignore[no-untyped-def]
    """Cell index and fraction along one axis. NaN gives cell 0 and fraction NaN."""
    unit = coordinate * 0.5 + 0.5
    unit = tl.where(unit < 0.0, 0.0, unit)
    unit = tl.where(unit > 1.0, 1.0, unit)
    scaled = unit * resolution.to(tl.float32)
    cell = tl.where(scaled > 0.0, scaled, 0.0).to(tl.int32)
    cell = tl.minimum(cell, resolution - 1)
    return cell, scaled - cell.to(tl.float32)


@triton.jit
def _row(x, y, z, resolution, mask):  # type: ignore[no-untyped-def]
    """Row of a vertex in its level: direct where mask is 0, hashed else (32 bits wrap around)."""
    side = resolution + 1
    # A hashed level's direct index may overflow; it is not used.
    direct = x + side * (y + side * z)
    hashed = x.to(tl.uint32) ^ (y.to(tl.uint32) * _PRIME_Y) ^ (z.to(tl.uint32) * _PRIME_Z)
    return tl.where(mask == 0, direct, (hashed & mask.to(tl.uint32)).to(tl.int32))


@triton.jit
def _corner(cell, fraction, UPPER: tl.constexpr):  # type: ignore[no-untyped-def]
    """Vertex and weight along one axis of a cell's lower or upper side."""
    if UPPER:
        return cell + 1, fraction
    else:
        return cell, 1.0 - fraction


@triton.jit(do_not_specialize=["n_points"])
def _encode(  # type: ignore[no-untyped-def]
    points, table, levels, values, n_points,
    N_FEATURES: tl.constexpr, WIDTH: tl.constexpr, BACKWARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Forward: read `table`, write `values`. Backward: read `values`, add to `table`.

    WIDTH: N_FEATURES rounded up to a power of two. Programs: (blocks of points, levels).
    """
    level = tl.program_id(1)
    resolution = tl.load(levels + 3 * level)
    mask = tl.load(levels + 3 * level + 1)
    offset = tl.load(levels + 3 * level + 2)

    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = point < n_points
    cx, fx = _locate(tl.load(points + 3 * point, mask=inside, other=0.0), resolution)
    cy, fy = _locate(tl.load(points + 3 * point + 1, mask=inside, other=0.0), resolution)
    cz, fz = _locate(tl.load(points + 3 * point + 2, mask=inside, other=0.0), resolution)

    feature = tl.arange(0, WIDTH)
    valid = inside[:, None] & (feature < N_FEATURES)[None, :]
    row_length = tl.num_programs(1) * N_FEATURES
    place = values + point[:, None] * row_length + level * N_FEATURES + feature[None, :]
    if BACKWARD:
        total = tl.load(place, mask=valid, other=0.0)
    else:
        total = tl.zeros([BLOCK, WIDTH], dtype=tl.float32)
    for corner in tl.static_range(8):
        x, wx = _corner(cx, fx, corner & 1)
        y, wy = _corner(cy, fy, (corner >> 1) & 1)
        z, wz = _corner(cz, fz, corner >> 2)
        row = (offset + _row(x, y, z, resolution, mask)).to(tl.int64)
        weight = (wx * wy * wz)[:, None]
        entry = table + row[:, None] * N_FEATURES + feature[None, :]
        if BACKWARD:
            tl.atomic_add(entry, weight * total, mask=valid, sem="relaxed")
        else:
            total += weight * tl.load(entry, mask=valid, other=0.0)
    if not BACKWARD:
        tl.store(place, total, mask=valid)


@lru_cache
def _level_tensor(layout: HashGridLayout, device: torch.device) -> Int32[Tensor, "levels 3"]:
    """Resolution, hash mask (0: dense), offset."""
    rows = [(v.resolution, 0 if v.dense else v.size - 1, v.offset) for v in layout.levels]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def _launch(
    points: Tensor, table: Tensor, values: Tensor, layout: HashGridLayout, *, backward: bool
) -> None:
    n_points = points.shape[0]
    if n_points == 0:
        return
    grid = (triton.cdiv(n_points, _BLOCK), len(layout.levels))
    # Triton launches on the current device, which may not be that of the tensors.
    with torch.cuda.device_of(points):
        _encode[grid](
            points,
            table,
            _level_tensor(layout, points.device),
            values,
            n_points,
            N_FEATURES=layout.n_features,
            WIDTH=triton.next_power_of_2(layout.n_features),
            BACKWARD=backward,
            BLOCK=_BLOCK,
            # Rounding as in the reference.
            enable_fp_fusion=False,
        )


def encode_triton(
    points: Float32[Tensor, "n 3"], table: Float32[Tensor, "rows features"], layout: HashGridLayout
) -> Float32[Tensor, "n outputs"]:
    """`encode_reference` for float32 tensors on one CUDA device (with TRITON_INTERPRET=1 on any),
    differentiable in the table only. Raises ValueError for other tensors: see `check_inputs`."""
    check_inputs("triton", points, table, layout)
    return KernelEncoding.apply(points.detach().contiguous(), table.contiguous(), layout, _launch)
