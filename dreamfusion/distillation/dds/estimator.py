"""Delta Denoising Score (Hertz et al. 2023), for edits.

    grad = e_hat(z; prompt) - e_hat(z'; source)                                             (eq. 3)

z' is the unedited image with the same noise and noise level. What SDS would do to an image that
needs no change cancels.
"""

from __future__ import annotations

import torch

from dreamfusion.diffusion.condition import Conditions
from dreamfusion.diffusion.predictions import add_noise
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weight
from dreamfusion.distillation.dds.settings import DDSSettings
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class DDSEstimator(ScoreEstimator):
    """The difference of SDS on an image and on the one that the edit starts from."""

    settings: DDSSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        if batch.source is None:
            raise UserError("the estimator 'dds' edits a scene that there is: set start=RUN")
        s, ask = self.settings, batch.conditions
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        before = Conditions(ask.named["source"], ask.unconditional)
        with torch.no_grad():
            source = self.prior.encode_image(batch.source())
            z_source = add_noise(self.prior, source, z.noise, z.timesteps)
            wanted = self.guided(z, ask, scale).noise
            difference = wanted - self.guided(z_source, before, scale).noise
            gradient = weight(z.alpha, z.sigma, s.weighting) * difference
        return self.result(x, gradient, timesteps, guidance=scale)
