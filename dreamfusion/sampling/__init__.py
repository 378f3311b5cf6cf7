"""Where on its ray the scene is looked at: a fixed step, through occupied cells only."""

from __future__ import annotations

import math
from typing import Literal

import torch

from ..cameras import Rays
from ..occupancy import OccupancyGrid
from .reference import box_interval, march_reference
from .samples import Samples

__all__ = ["Samples", "SamplingBackend", "box_interval", "march_rays"]

SamplingBackend = Literal["auto", "numba", "reference"]


def march_rays(
    rays: Rays,
    occupancy: OccupancyGrid,
    *,
    step: float,
    min_transmittance: float = 1e-3,
    generator: torch.Generator | None = None,
    backend: SamplingBackend = "auto",
) -> Samples:
    """Samples at equal steps from where each ray enters the box, in occupied cells only.

    rays: (n, 3) origins and unit directions, finite. step: scene units, positive.
    min_transmittance: a ray ends where the occupancy grid's floor lets less light than this pass;
    0 never ends it.
    generator: on the CPU, shifts all samples of a ray by a random part of a step; None puts them
    in the middle of their steps. No gradient flows to the rays.
    """
    if step <= 0:
        raise ValueError(f"step must be positive, not {step}")
    max_depth = -math.log(min_transmittance) if min_transmittance > 0 else math.inf
    origins, directions = rays.origins, rays.directions
    if origins.ndim != 2:
        raise ValueError("march_rays takes (n, 3) rays; use Rays.flatten()")
    n = origins.shape[0]
    if generator is None:
        jitter = torch.full((n,), 0.5, dtype=origins.dtype)
    else:
        jitter = torch.rand(n, generator=generator, dtype=origins.dtype)
    jitter = jitter.to(origins.device)
    if backend == "auto":
        fast = origins.device.type == "cpu" and origins.dtype == torch.float32
        backend = "numba" if fast else "reference"
    if backend == "numba":
        from .compiled import march_numba

        return march_numba(origins, directions, jitter, occupancy, step, max_depth)
    with torch.no_grad():
        return march_reference(origins, directions, jitter, occupancy, step, max_depth)
