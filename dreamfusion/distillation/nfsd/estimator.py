"""Noise-Free Score Distillation (Katzir et al. 2024).

    grad = w(t) (s (e_text - e_nothing) + d_D)                                            (eq. 10)

d_D leads towards the domain of the prior's images: e_nothing at low noise, where it holds nothing
else, and e_nothing - e_negative above.
"""

from __future__ import annotations

import torch

from dreamfusion.diffusion.predictions import predictions
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weight
from dreamfusion.distillation.nfsd.settings import NFSDSettings
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class NFSDEstimator(ScoreEstimator):
    """Moves images along guidance and towards the domain."""

    settings: NFSDSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s, ask = self.settings, batch.conditions
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        with torch.no_grad():
            text, nothing, negative = (
                p.noise
                for p in predictions(
                    self.prior, z, ask.text, ask.unconditional, ask.named["negative"]
                )
            )
            low = z.timesteps < s.clean_below * len(self.prior.alphas)
            low = low.reshape(-1, *[1] * (x.dim() - 1))
            domain = torch.where(low, nothing, nothing - negative)
            wanted = scale * (text - nothing) + domain
            gradient = weight(z.alpha, z.sigma, s.weighting) * wanted
        return self.result(x, gradient, timesteps, guidance=scale)
