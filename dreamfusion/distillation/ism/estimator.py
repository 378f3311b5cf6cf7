"""Interval Score Matching (Liang et al. 2024, "LucidDreamer").

    grad = w(t) (e_hat(z_t) - e_nothing(z_s))                                              (eq. 17)

z_s is the image brought to level s by DDIM without a text, and z_t one such step further on. With
s = 0 it is one step of inversion, and the difference from the image that the prior sees then.
"""

from __future__ import annotations

import torch

from dreamfusion.diffusion.ddim import invert
from dreamfusion.diffusion.predictions import predictions
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weight
from dreamfusion.distillation.ism.settings import ISMSettings
from dreamfusion.utils.devices import send
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class ISMEstimator(ScoreEstimator):
    """Inverts the images without a text; needs no noise."""

    settings: ISMSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        c, ask = self.settings, batch.conditions
        scale = c.guidance.at(*progress)
        x = self.encode(batch)
        timesteps = self.timesteps(len(x), progress, generator)
        t = send(timesteps, x.device)
        s = (t - round(c.interval.at(*progress) * len(self.prior.alphas))).clamp(min=0)
        path = [s * (i + 1) // c.inversion_steps for i in range(c.inversion_steps)]
        with torch.no_grad():
            found = invert(
                self.prior,
                x.detach(),
                [*path, t],
                lambda z: predictions(self.prior, z, ask.unconditional)[0],
            )
            z, at_s = found[-1]  # what was predicted at s led to t
            wanted = self.guided(z, ask, scale).noise
            gradient = weight(z.alpha, z.sigma, c.weighting) * (wanted - at_s.noise)
        return self.result(x, gradient, timesteps, guidance=scale)
