"""Samples along rays: at a fixed step, in occupied cells only."""

import math
from collections.abc import Callable
from functools import partial
from pkgutil import resolve_name
from typing import Any, Literal, get_args

import torch

from dreamfusion.graphics.cameras import Rays
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.ray_marching.reference import Samples, check_marching, march_reference
from dreamfusion.scenes.nerf.settings import MarchingConfig
from dreamfusion.utils.backends import Operation, choose
from dreamfusion.utils.devices import send
from dreamfusion.utils.rng import Generators, rand

__all__ = ["MARCHING", "MarchingBackend", "Samples", "march_rays", "nerfacc_kernel"]

MarchingBackend = Literal["auto", "reference", "numba", "triton", "nerfacc"]


def nerfacc_kernel(name: str) -> Callable[..., Any]:
    """A function of the module `nerfacc`. Raises if nerfacc or its extension is missing."""
    from dreamfusion.scenes.nerf.ray_marching import nerfacc

    nerfacc.require_extension()
    return getattr(nerfacc, name)


MARCHING = Operation(
    name="ray marching",
    setting="scene.marching.backend",
    # On CUDA, no speeds were compared; nerfacc needs minutes to build its extension.
    order={"cpu": ("numba",), "cuda": ("triton", "nerfacc")},
    kernels={
        "numba": partial(resolve_name, f"{__name__}.numba:march_numba"),
        "triton": partial(resolve_name, f"{__name__}.triton:march_triton"),
        "nerfacc": partial(nerfacc_kernel, "march_nerfacc"),
    },
    self_test=check_marching,
)


def march_rays(
    rays: Rays,
    occupancy: OccupancyGrid,
    *,
    step: float,
    min_transmittance: float = MarchingConfig.min_transmittance,
    generator: Generators | None = None,
    backend: MarchingBackend = "auto",
) -> Samples:
    """Samples at equal steps from the point where each ray enters the box, in occupied cells only.

    rays: finite, with one batch axis and unit directions. step: scene units, positive.
    min_transmittance: a ray ends where the transmittance, as bounded by the occupancy grid, is less
    than this; 0 never ends it.
    generator: on the CPU, or one for each equal part of the rays; shifts all samples of a ray by a
    random part of a step; None puts them in the middle of their steps. Rays receive no gradient.
    backend: "reference" is plain torch and runs anywhere; "numba" is for CPUs, "triton" and
    "nerfacc" for CUDA (float32); "auto" is the first of them that works, else the reference. Raises
    AcceleratorError if `backend` is an accelerator that cannot be used.
    """
    if backend not in get_args(MarchingBackend):
        raise ValueError(f"backend must be one of {get_args(MarchingBackend)}, not {backend!r}")
    if step <= 0:
        raise ValueError(f"step must be positive, not {step}")
    max_depth = -math.log(min_transmittance) if min_transmittance > 0 else math.inf
    origins, directions = rays.origins, rays.directions
    if origins.ndim != 2:
        raise ValueError("march_rays takes (n, 3) rays; use Rays.flatten()")
    if not (origins.isfinite() & directions.isfinite()).all():
        raise ValueError("rays must be finite")
    n = origins.shape[0]
    if generator is None:
        jitter = torch.full((n,), 0.5, dtype=origins.dtype)
    else:
        jitter = rand((n,), generator, origins.dtype)
    flat = (origins.detach(), directions.detach(), send(jitter, origins.device))
    chosen = choose(MARCHING, backend, origins.device.type, dtype=origins.dtype)
    march = march_reference if chosen == "reference" else MARCHING.kernels[chosen]()
    return march(*flat, occupancy, step, max_depth)
