"""Asynchronous Score Distillation (Ma et al. 2024, "ScaleDreamer").

    grad = w(t) (e_hat(z_t) - e_text(z_{t + d})),   d ~ U(0, shift (t - t_min))            (eq. 11)

Both images have the same noise. A prediction at a later timestep has the smaller error on images
that the prior does not know, which is what VSD trains a network for.
"""

from __future__ import annotations

import torch

from dreamfusion.diffusion.predictions import add_noise, group_size, predictions
from dreamfusion.distillation.asd.settings import ASDSettings
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weight
from dreamfusion.utils.devices import send
from dreamfusion.utils.rng import Generators, rand
from dreamfusion.utils.state import Progress


class ASDEstimator(ScoreEstimator):
    """The difference of predictions at two noise levels of the same noise."""

    settings: ASDSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s = self.settings
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        last, size = len(self.prior.alphas) - 1, group_size(self.prior)
        share = rand((len(x),), generator)
        share = share[::size].repeat_interleave(size)
        least = s.t_min.at(*progress) * (last + 1)
        shift = (s.shift * share * (timesteps - least).clamp(min=0.0)).long()
        later = (timesteps + shift).clamp(max=last)
        with torch.no_grad():
            wanted = self.guided(z, batch.conditions, scale).noise
            shifted = add_noise(self.prior, x.detach(), z.noise, send(later, x.device))
            (own,) = predictions(self.prior, shifted, batch.conditions.text)
            gradient = weight(z.alpha, z.sigma, s.weighting) * (wanted - own.noise)
        return self.result(x, gradient, timesteps, guidance=scale)
