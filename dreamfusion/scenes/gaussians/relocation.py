"""Moves splats that became transparent onto others, which they divide in two."""

from __future__ import annotations

import math

import torch

from dreamfusion.scenes.gaussians.splats import PARAMETERS, Splats, rotations

_TRANSPARENT = 0.03  # opacity


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
        for state in (optimizer.state.get(values, {}),):
            if state:
                state["exp_avg"][dead] = 0.0
                state["exp_avg_sq"][dead] = state["exp_avg_sq"][at]
    splats.means[at], splats.means[dead] = means - shift, means + shift
    if average is not None:
        moved = torch.cat([at, dead])
        for name in PARAMETERS:
            getattr(average, name)[moved] = getattr(splats, name)[moved]
    return n
