"""The parameters of splats, quantities computed from them, and moves of transparent splats."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

MIN_SCALE = 0.004  # scene units
_TRANSPARENT = 0.03  # splats of less opacity are moved
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


@torch.no_grad()
def relocate(
    splats: Splats, optimizer: torch.optim.Optimizer, average: Splats | None, *, seed: int
) -> int:
    """Move all transparent splats; returns how many.

    Each goes to an opaque one, chosen with a probability proportional to its opacity, and the two
    share its place: shifted apart by about a third of its width, 1.3 times smaller, with opacities
    that composite to the former (1 - sqrt(1 - opacity) each). Such moves keep the number of splats,
    as Kheradmand et al. 2024 ("3D Gaussian splatting as Markov chain Monte Carlo"). The optimiser's
    first moments of moved splats become 0, and their second moments those of the other.
    """
    opacities = splats.opacities
    dead = (opacities < _TRANSPARENT).nonzero()[:, 0]
    alive = (opacities >= _TRANSPARENT).nonzero()[:, 0]
    n = min(len(dead), len(alive))
    if n == 0:
        return 0
    dead, generator = dead[:n], torch.Generator().manual_seed(seed)
    picked = torch.multinomial(opacities[alive].cpu(), n, generator=generator).to(alive.device)
    at = alive[picked]
    halved = (1 - (1 - opacities[at]).sqrt()).clamp(1e-3, 0.99)
    widths = splats.log_scales[at].exp()
    shift = (0.7 * torch.randn(n, 3, generator=generator)).to(widths.device) * widths
    shift = (rotations(splats.quaternions[at]) @ shift[..., None])[..., 0] / 2
    means = splats.means[at].clone()
    splats.logits[at] = torch.logit(halved) / splats.sharpness
    splats.log_scales[at] -= math.log(1.3)
    for name in PARAMETERS:
        values = getattr(splats, name)
        values[dead] = values[at]
        if state := optimizer.state.get(values):
            state["exp_avg"][dead] = 0.0
            state["exp_avg_sq"][dead] = state["exp_avg_sq"][at]
    splats.means[at], splats.means[dead] = means - shift, means + shift
    if average is not None:
        moved = torch.cat([at, dead])
        for name in PARAMETERS:
            getattr(average, name)[moved] = getattr(splats, name)[moved]
    return n
