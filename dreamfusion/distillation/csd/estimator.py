"""Classifier Score Distillation (Yu et al. 2024, "Text-to-3D with Classifier Score Distillation").

    grad = w(t) s (e_text + u e_negative + v e_nothing),   u + v = -1                      (eq. 9)

With u = 0 it is the guidance term of SDS; the rest of SDS, e_nothing - e, is left out.
"""

from __future__ import annotations

import torch

from dreamfusion.diffusion.predictions import predictions
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weight
from dreamfusion.distillation.csd.settings import CSDSettings
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class CSDEstimator(ScoreEstimator):
    """Moves images along what the text changes in a prediction."""

    settings: CSDSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s, ask = self.settings, batch.conditions
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        asked = [ask.text, ask.unconditional]
        if s.uses_negative:
            asked.append(ask.named["negative"])
        with torch.no_grad():
            text, nothing, *negative = (p.noise for p in predictions(self.prior, z, *asked))
            share = s.negative_share.at(*progress)
            away = nothing.lerp(negative[0], share) if negative else nothing
            gradient = weight(z.alpha, z.sigma, s.weighting) * scale * (text - away)
        return self.result(x, gradient, timesteps, guidance=scale)
