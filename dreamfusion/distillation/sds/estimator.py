"""Score Distillation Sampling (DreamFusion, section 3).

For images x = g(theta), t ~ U(t_min, t_max), noise e ~ N(0, I) and z = alpha_t x + sigma_t e:

    grad_theta L_SDS = E[ w(t) (e_hat(z; y, t) - e) dx/dtheta ]                            (eq. 3)

The diffusion model is never differentiated: (e_hat - e) counts as a constant, so that only the
generator (and, for a latent model, its image encoder) takes part in the backward pass. e_hat is
under classifier-free guidance, uncond + s (text - uncond).
"""

from __future__ import annotations

import torch

from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weighted_error
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class SDSEstimator(ScoreEstimator):
    """SDS with the noise, the weighting and the guidance of its settings."""

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        scale = self.settings.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        with torch.no_grad():
            prediction = self.guided(z, batch.conditions, scale)
            gradient = weighted_error(prediction, x.detach(), self.settings.weighting)
        return self.result(x, gradient, timesteps, guidance=scale)
