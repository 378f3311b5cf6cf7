"""Noise that is anchored to the surface.

At high noise levels, predictions depend on the noise: pupils, for example, appear in different
places, and the mean of many predictions has none. If the noise is attached to the surface, like a
texture, the predictions of all views and steps agree (after the "3D consistent noising" of Kwak et
al. 2024, Geometry-Aware Score Distillation).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import interpolate

from dreamfusion.graphics.cameras import Cameras, generate_rays
from dreamfusion.utils.devices import send
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators, randn

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Batch

# Spots along each side of a pixel. The noise of a pixel is the sum over its spots, so pixels of two
# views are correlated by the share of spots that they have in common.
_SPOTS = 4
# Thickness of the shells that divide the ball of the scene, scene units. Along a spot's direction
# from the origin the noise is constant within a shell, because the surface still moves.
_SHELL = 0.15
# Distance from the origin at which spots have their nominal size, scene units: near surfaces.
_RADIUS = 0.5
# The number of random numbers; the cell of a spot is hashed to one of them.
_TABLE = 2**16
_PRIMES = (73856093, 19349663, 83492791, 2654435761)


class SurfaceNoise:
    """Noise anchored to the surface: a spot has the same noise in every view.

    seed: of the numbers of all spots. refresh: share of their variance that each step replaces:
    n' = sqrt(1 - refresh) n + sqrt(refresh) e (Yan et al. 2025, "Consistent Flow Distillation"). At
    0 they are the same in each step.
    """

    def __init__(self, seed: int, refresh: float = 0.0) -> None:
        self.seed, self.refresh = seed, refresh
        # Of all spots, if they change.
        self.numbers: Float[Tensor, "spots c"] | None = None

    def __call__(
        self, shape: Sequence[int], generator: Generators, batch: Batch, step: int
    ) -> Float[Tensor, "b c h w"]:
        """Standard normal noise of `shape` = (n, c, h, w), on the device of the images.

        Raises UserError for images that have no depth.
        """
        if batch.cameras is None or batch.depth is None or batch.opacity is None or len(shape) != 4:
            raise UserError(
                "noise anchored to the surface needs images of a scene with depth: set "
                "estimator.surface_noise=null"
            )
        return surface_noise(
            shape,
            generator,
            cameras=batch.cameras.to(batch.depth.device),
            depth=batch.depth.detach(),
            opacity=batch.opacity.detach(),
            numbers=self._numbers(shape[1], batch.depth.device, step),
        )

    def _numbers(
        self, channels: int, device: torch.device, step: int
    ) -> Float[Tensor, "spots {channels}"]:
        if self.refresh == 0.0:
            return spot_numbers(channels, self.seed, device)
        if self.numbers is None:
            self.numbers = spot_numbers(channels, self.seed, device).clone()
        else:
            # From seed and step, so that all processes draw the same numbers.
            drawn = torch.Generator().manual_seed(self.seed + _PRIMES[-1] * (step + 1))
            new = send(torch.randn(*self.numbers.shape, generator=drawn), device)
            known = send(self.numbers, device)  # on the CPU after loading a checkpoint
            self.numbers = (1 - self.refresh) ** 0.5 * known + self.refresh**0.5 * new
        return self.numbers


def surface_noise(
    shape: Sequence[int],
    generator: Generators,
    *,
    cameras: Cameras,
    depth: Float[Tensor, "b image_h image_w"],
    opacity: Float[Tensor, "b image_h image_w"],
    numbers: Float[Tensor, "spots c"],
) -> Float[Tensor, "b c h w"]:
    """Standard normal noise of `shape` = (b, c, h, w) for images of b cameras.

    depth, opacity: as in `scenes.base.Rendered`; their size may differ, as for a latent prior. If
    the opacity is over a half, the noise is a function of the visible point and the channel;
    otherwise it is drawn from `generator`. numbers: of all spots, see `spot_numbers`.

    A spot is as large as a quarter of a pixel of an image that just contains the ball of the scene.
    Sums are normalised for spots that several samples of a pixel share, so the variance of each
    pixel is 1; neighbours that share a spot are slightly correlated.
    """
    noise = send(randn(shape, generator), depth.device)
    height, width = shape[2:]
    with torch.no_grad():
        opaque = interpolate(opacity[:, None], size=(height, width), mode="area")[:, 0] > 0.5
        fine = (height * _SPOTS, width * _SPOTS)
        distance = interpolate(depth[:, None], size=fine)[:, 0, ..., None]
        rays = generate_rays(cameras, *fine)
        points = _by_pixel(rays.origins + distance * rays.directions)[opaque]
        spots = _spots(points, cell=2.0 / fine[0])
        sums = numbers[spots].sum(dim=1)
        pairs = (spots[:, :, None] == spots[:, None, :]).sum(dim=(1, 2))
        noise.movedim(1, -1)[opaque] = sums / pairs[:, None].sqrt()
    return noise


@lru_cache(maxsize=1)
def spot_numbers(channels: int, seed: int, device: torch.device) -> Float[Tensor, "spots c"]:
    """Standard normal numbers of all spots."""
    generator = torch.Generator().manual_seed(seed)
    return send(torch.randn(_TABLE, channels, generator=generator), device)


def _spots(points: Float[Tensor, "*batch 3"], cell: float) -> Int64[Tensor, "*batch"]:
    """The index of each point's number, below _TABLE. It is the same for all points of a cell, and
    differs between cells except for hash collisions."""
    radius = points.norm(dim=-1, keepdim=True)
    direction = points / radius.clamp(min=1e-6)
    cells = torch.cat([direction * _RADIUS / cell, radius / _SHELL], dim=-1).floor().long()
    mixed = torch.zeros_like(cells[..., 0])
    for axis, prime in enumerate(_PRIMES):
        mixed = mixed ^ (cells[..., axis] * prime)
    # Multiply and fold, so that the high bits depend on all of the low bits.
    for _ in range(2):
        mixed = (mixed * 2654435761) & 0xFFFFFFFF
        mixed = mixed ^ (mixed >> 15)
    return mixed >> 16


def _by_pixel(values: Float[Tensor, "b fine_h fine_w 3"]) -> Float[Tensor, "b h w spots 3"]:
    """(b, h _SPOTS, w _SPOTS, 3) as (b, h, w, _SPOTS^2, 3): the spots of each pixel."""
    blocks = values.unflatten(2, (-1, _SPOTS)).unflatten(1, (-1, _SPOTS))
    return blocks.movedim(2, 3).flatten(3, 4)
