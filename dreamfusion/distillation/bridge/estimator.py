"""SDS-Bridge (McAllister et al. 2024, "Rethinking Score Distillation as a Bridge").

Two stages: SDS, and then, since by then images are not those of no text but flawed ones,

    grad = w(t) s (e_wanted - e_flawed)                                             (section 4.2)
"""

from __future__ import annotations

import torch

from dreamfusion.diffusion.predictions import predictions
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weight, weighted_error
from dreamfusion.distillation.bridge.settings import BridgeSettings
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class BridgeEstimator(ScoreEstimator):
    """SDS until the switch; then the difference of two texts."""

    settings: BridgeSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s, named = self.settings, batch.conditions.named
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        with torch.no_grad():
            if progress.step < s.switch * progress.steps:
                prediction = self.guided(z, batch.conditions, scale)
                gradient = weighted_error(prediction, x.detach(), s.weighting)
            else:
                wanted, flawed = predictions(self.prior, z, named["wanted"], named["flawed"])
                difference = scale * (wanted.noise - flawed.noise)
                gradient = weight(z.alpha, z.sigma, s.weighting) * difference
        return self.result(x, gradient, timesteps, guidance=scale)
