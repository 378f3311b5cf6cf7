"""Ray marching as a Triton kernel, for CUDA: the samples of the reference, without its padding.

Each ray is marched twice: to count its samples, and to write them behind those of previous rays.
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float32
from torch import Tensor

from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching.reference import Samples, box_interval

_BLOCK = 128


@triton.jit
def _cell(x, RESOLUTION: tl.constexpr):  # type: ignore[no-untyped-def]
    """Cell along one axis, with the arithmetic of OccupancyGrid.cells."""
    cell = ((x * 0.5 + 0.5) * RESOLUTION).to(tl.int32)
    return tl.maximum(tl.minimum(cell, RESOLUTION - 1), 0)


@triton.jit(do_not_specialize=["n_rays", "n_steps"])
def _march(  # type: ignore[no-untyped-def]
    origins, directions, near, far, jitter, occupied, bound, offsets, positions, t_out, index,
    n_rays, n_steps, step, max_bound,
    RESOLUTION: tl.constexpr, FILL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Count the samples of each ray into offsets[ray + 1], or write them if FILL."""
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = ray < n_rays
    ox = tl.load(origins + 3 * ray, mask=inside, other=0.0)
    oy = tl.load(origins + 3 * ray + 1, mask=inside, other=0.0)
    oz = tl.load(origins + 3 * ray + 2, mask=inside, other=0.0)
    dx = tl.load(directions + 3 * ray, mask=inside, other=0.0)
    dy = tl.load(directions + 3 * ray + 1, mask=inside, other=0.0)
    dz = tl.load(directions + 3 * ray + 2, mask=inside, other=0.0)
    first = tl.load(near + ray, mask=inside, other=0.0)
    last = tl.load(far + ray, mask=inside, other=0.0)
    shift = tl.load(jitter + ray, mask=inside, other=0.0)

    row = tl.zeros([BLOCK], dtype=tl.int64)
    if FILL:
        row += tl.load(offsets + ray, mask=inside, other=0)
    # As in the reference, because summing many small numbers needs double precision.
    before = tl.zeros([BLOCK], dtype=tl.float64)
    for k in range(n_steps):
        t = first + (k * 1.0 + shift) * step
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        going = inside & (t < last) & (before <= max_bound)
        going &= (tl.abs(x) <= 1.0) & (tl.abs(y) <= 1.0) & (tl.abs(z) <= 1.0)
        cell = (_cell(x, RESOLUTION) * RESOLUTION + _cell(y, RESOLUTION)) * RESOLUTION
        cell += _cell(z, RESOLUTION)
        hit = going & (tl.load(occupied + cell, mask=going, other=0) != 0)
        if FILL:
            tl.store(positions + 3 * row, x, mask=hit)
            tl.store(positions + 3 * row + 1, y, mask=hit)
            tl.store(positions + 3 * row + 2, z, mask=hit)
            tl.store(t_out + row, t, mask=hit)
            tl.store(index + row, ray.to(tl.int64), mask=hit)
        row += hit.to(tl.int64)
        before += tl.load(bound + cell, mask=going, other=0.0).to(tl.float64)
    if not FILL:
        tl.store(offsets + ray + 1, row, mask=inside)


def march_triton(
    origins: Float32[Tensor, "rays 3"],
    directions: Float32[Tensor, "rays 3"],
    jitter: Float32[Tensor, " rays"],
    occupancy: OccupancyGrid,
    step: float,
    max_depth: float,
) -> Samples:
    """`ray_marching.march_rays` for finite float32 tensors on one CUDA device (with
    TRITON_INTERPRET=1 on any)."""
    n = origins.shape[0]
    device = origins.device
    near, far = box_interval(origins, directions)
    rays = [v.detach().contiguous() for v in (origins, directions, near, far, jitter)]
    grid = [occupancy.occupied.view(torch.uint8).contiguous(), occupancy.lower_bound.contiguous()]
    n_steps = math.ceil(2.0 * math.sqrt(3.0) / step) + 1
    offsets = torch.zeros(n + 1, dtype=torch.int64, device=device)

    def run(fill: bool, positions: Tensor, t: Tensor, index: Tensor) -> None:
        # Triton launches on the current device, which may not be that of the tensors.
        with torch.cuda.device_of(origins):
            # A fused multiply-add would change the last bit of samples.
            _march[(triton.cdiv(n, _BLOCK),)](
                *rays, *grid, offsets, positions, t, index, n, n_steps, step, max_depth / step,
                RESOLUTION=occupancy.resolution, FILL=fill, BLOCK=_BLOCK, enable_fp_fusion=False,
            )  # fmt: skip

    # Counting writes no samples, but the kernel needs pointers of the same types both times.
    unused = origins.new_empty(1)
    if n > 0:
        run(False, unused, unused, torch.empty(1, dtype=torch.int64, device=device))
    offsets = offsets.cumsum(0)
    m = int(offsets[-1])
    positions, t = origins.new_empty(m, 3), origins.new_empty(m)
    index = torch.empty(m, dtype=torch.int64, device=device)
    if m > 0:
        run(True, positions, t, index)
    return Samples(positions=positions, t=t, ray_index=index, offsets=offsets, step=step)
