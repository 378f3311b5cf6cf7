"""The parameters of splats, and quantities computed from them."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

MIN_SCALE = 0.004  # scene units
PARAMETERS = ("means", "log_scales", "quaternions", "logits", "colors")


class Splats(nn.Module):
    """The parameters of n Gaussians.

    means: scene units. log_scales: logarithms of the standard deviations along the three axes.
    quaternions: (w, x, y, z) of any length; rotate the axes into the world. logits: opacity is
    sigmoid(sharpness logit). colors: sRGB in [0, 1], without directions.
    """

    def __init__(
        self,
        means: Float[Tensor, "n 3"],
        log_scales: Float[Tensor, "n 3"],
        quaternions: Float[Tensor, "n 4"],
        logits: Float[Tensor, " n"],
        colors: Float[Tensor, "n 3"],
    ) -> None:
        super().__init__()
        values = (means, log_scales, quaternions, logits, colors)
        for name, value in zip(PARAMETERS, values, strict=True):
            self.register_parameter(name, nn.Parameter(value.float()))
        self.register_buffer("sharpness", torch.ones(()))

    means: nn.Parameter
    log_scales: nn.Parameter
    quaternions: nn.Parameter
    logits: nn.Parameter
    colors: nn.Parameter
    sharpness: Tensor

    @property
    def opacities(self) -> Float[Tensor, " n"]:
        """Of each splat at its centre."""
        return torch.sigmoid(self.sharpness * self.logits)

    def covariances(self, blur: float) -> Float[Tensor, "n 3 3"]:
        """R diag(scale^2) R^T + blur^2, scene units^2."""
        axes = rotations(self.quaternions) * self.log_scales.exp()[:, None, :]
        eye = torch.eye(3, dtype=axes.dtype, device=axes.device)
        return axes @ axes.mT + blur**2 * eye

    def widths(self, blur: float) -> Float[Tensor, "n 3"]:
        """Standard deviations along the axes, blur included."""
        return (torch.exp(2 * self.log_scales) + blur**2).sqrt()

    @torch.no_grad()
    def limit(self, max_scale: float) -> None:
        """Limit colours to [0, 1], centres to the box, and axes to a range, scene units."""
        self.colors.clamp_(0.0, 1.0)
        self.means.clamp_(-1.0, 1.0)
        self.log_scales.clamp_(math.log(MIN_SCALE), math.log(max_scale))


def rotations(quaternions: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z) of any length but 0."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(entries, dim=-1).reshape(-1, 3, 3)


def ball(n: int, *, radius: float, opacity: float, generator: torch.Generator) -> Splats:
    """n round, grey splats, uniformly distributed in a ball around the origin."""
    directions = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    distance = radius * torch.rand(n, 1, generator=generator) ** (1 / 3)
    colors = 0.5 + 0.03 * torch.randn(n, 3, generator=generator)
    spacing = radius * (4 / 3 * torch.pi / n) ** (1 / 3)
    log_scales = torch.full((n, 3), 0.7 * spacing).log()
    upright = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1)
    logits = torch.logit(torch.full((n,), opacity))
    return Splats(directions * distance, log_scales, upright, logits, colors.clamp(0, 1))
