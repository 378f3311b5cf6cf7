"""Draws projected Gaussians, front to back, with gradients for all their parameters."""

from functools import partial
from pkgutil import resolve_name

import torch
from jaxtyping import Float
from torch import Tensor

from dreamfusion.graphics.cameras import Cameras
from dreamfusion.scenes.gaussians.rasterizer.projection import Gaussians
from dreamfusion.scenes.gaussians.rasterizer.reference import rasterize_reference
from dreamfusion.scenes.gaussians.rasterizer.self_test import check_rasterizer
from dreamfusion.utils.backends import Operation, choose

RASTERIZING = Operation(
    name="rasterization",
    setting="scene.backend",
    order={"cpu": ("numba",), "cuda": ("gsplat",)},
    kernels={
        name: partial(resolve_name, f"{__name__}.{name}:rasterize_{name}")
        for name in ("numba", "gsplat")
    },
    self_test=check_rasterizer,
)


def rasterize(
    gaussians: Gaussians,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    backend: str = "auto",
) -> tuple[Float[Tensor, "views {height} {width} 4"], Float[Tensor, "views {height} {width}"]]:
    """Composite Gaussians from several cameras; returns features and opacity of each pixel.

    A pixel is sum_i f_i a_i prod_{j<i} (1 - a_j) over the
    Gaussians from near to far, where a = opacity exp(-d^T S^-1 d / 2) at the pixel's centre, d is
    the distance from the projected mean and S = J W covariance W^T J^T + BLUR the projected
    covariance in pixels (Kerbl et al., eq. 3 and 5; J: of the perspective projection at the mean).
    Gaussians nearer than NEAR are not drawn, nor where a < LEAST_ALPHA. A value that is not finite
    makes all pixels NaN: it would otherwise vanish without an error. Raises AcceleratorError if
    `backend` cannot be used.
    """
    means = gaussians.means
    chosen = choose(RASTERIZING, backend, means.device.type, dtype=means.dtype)
    draw = rasterize_reference if chosen == "reference" else RASTERIZING.kernels[chosen]()
    drawn, opacity = draw(gaussians, cameras, height, width)
    finite = torch.stack([part.detach().isfinite().all() for part in gaussians]).all()
    poison = torch.where(finite, 0.0, torch.nan).to(means.dtype)
    return drawn + poison, opacity + poison
