"""The diffusion training loss (DreamFusion, eq. 1 and 2), as the paper's comparison.

    L = w(t) |e_hat(alpha x + sigma e) - e|^2 / 2,    grad = w(t) (e_hat - e) (de_hat/dz alpha) dx

SDS leaves the Jacobian of the network, de_hat/dz, out: it is expensive, and noise at low levels.
"""

from __future__ import annotations

from dreamfusion.diffusion.predictions import add_noise
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weight
from dreamfusion.distillation.diffusion_loss.settings import DiffusionLossSettings
from dreamfusion.utils.devices import send
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class DiffusionLossEstimator(ScoreEstimator):
    """The training loss of the prior on the images, with gradients through the prior."""

    settings: DiffusionLossSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s = self.settings
        scale = s.guidance.at(*progress)
        x = self.encode(batch)
        timesteps = self.timesteps(len(x), progress, generator)
        noise = send(self.noise(x.shape, generator, batch, progress), x.device)
        z = add_noise(self.prior, x, noise, send(timesteps, x.device))
        prediction = self.guided(z, batch.conditions, scale)
        error = prediction.noise - z.noise
        loss = 0.5 * (weight(z.alpha, z.sigma, s.weighting) * error.square()).mean()
        return Distilled({s.name: loss}, {"guidance": scale}, timesteps)
