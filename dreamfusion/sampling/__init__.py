"""Where on its ray the scene is looked at: a fixed step, through occupied cells only."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch

from ..accelerators import marching_backend
from ..cameras import Rays
from ..occupancy import OccupancyGrid
from ..randomness import Generators, rand
from .reference import box_interval, march_reference
from .samples import Samples

__all__ = ["Samples", "SamplingBackend", "box_interval", "march_rays"]

SamplingBackend = Literal["auto", "reference", "numba", "triton", "nerfacc"]


def march_rays(
    rays: Rays,
    occupancy: OccupancyGrid,
    *,
    step: float,
    min_transmittance: float = 1e-3,
    generator: Generators | None = None,
    backend: SamplingBackend = "auto",
) -> Samples:
    """Samples at equal steps from where each ray enters the box, in occupied cells only.

    rays: (n, 3) origins and unit directions, finite. step: scene units, positive.
    min_transmittance: a ray ends where the occupancy grid's floor lets less light than this pass;
    0 never ends it.
    generator: on the CPU, or one for each equal part of the rays; shifts all samples of a ray by
    a random part of a step; None puts them in the middle of their steps. No gradient flows to the
    rays.
    backend: "reference" is plain torch and runs anywhere; "numba" is the CPU's fast path, "triton"
    and "nerfacc" are CUDA's (float32); "auto" takes the first of them that works, else the
    reference. Raises AcceleratorError where `backend` is an accelerator that cannot be used here.
    """
    if backend not in get_args(SamplingBackend):
        raise ValueError(f"backend must be one of {get_args(SamplingBackend)}, not {backend!r}")
    if step <= 0:
        raise ValueError(f"step must be positive, not {step}")
    max_depth = -math.log(min_transmittance) if min_transmittance > 0 else math.inf
    origins, directions = rays.origins, rays.directions
    if origins.ndim != 2:
        raise ValueError("march_rays takes (n, 3) rays; use Rays.flatten()")
    if not (origins.isfinite().all() and directions.isfinite().all()):
        raise ValueError("rays must be finite")
    n = origins.shape[0]
    if generator is None:
        jitter = torch.full((n,), 0.5, dtype=origins.dtype)
    else:
        jitter = rand((n,), generator, origins.dtype)
    rays_and_grid = (
        origins.detach(),
        directions.detach(),
        jitter.to(origins.device),
        occupancy,
        step,
        max_depth,
    )
    if backend == "auto" and origins.dtype != torch.float32:
        backend = "reference"
    chosen = marching_backend(backend, origins.device.type)
    if chosen != "reference" and origins.dtype != torch.float32:
        raise ValueError(f"{chosen} marches float32 rays, not {origins.dtype}")
    if chosen == "numba":
        from .compiled import march_numba

        return march_numba(*rays_and_grid)
    if chosen == "triton":
        from .gpu import march_triton

        return march_triton(*rays_and_grid)
    if chosen == "nerfacc":
        from .nerfacc import march_nerfacc

        return march_nerfacc(*rays_and_grid)
    return march_reference(*rays_and_grid)
