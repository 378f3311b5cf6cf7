"""Estimators on a DDIM inversion of the images: ISM, SDI."""

from dataclasses import replace
from functools import partial

import torch

from dreamfusion.diffusion.ddim import invert
from dreamfusion.diffusion.predictions import Noisy, guided, predictions
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator
from dreamfusion.distillation.inversion.settings import ISMSettings, SDISettings
from dreamfusion.utils.devices import send
from dreamfusion.utils.rng import Generators, randn
from dreamfusion.utils.state import Progress


class ISMEstimator(ScoreEstimator):
    """Interval Score Matching (Liang et al. 2024, "LucidDreamer"), which needs no noise.

        grad = w(t) (e_hat(z_t) - e_nothing(z_s))                                           (eq. 17)

    z_s is the image brought to level s by DDIM without a text, and z_t one such step further on.
    With s = 0 it is one step of inversion, and the difference from what the prior sees.
    """

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
            gradient = self.weighted(z, wanted - at_s.noise)
        return self.result(x, gradient, timesteps, guidance=scale)


class SDIEstimator(ScoreEstimator):
    """Score Distillation via Inversion (Lukoianov et al. 2024, "Reparametrized DDIM"): moves
    images towards the prior's prediction for their own inversion.

        grad = x - x_hat(z_t),   z_t from x by DDIM inversion                          (algorithm 1)

    SDS equals DDIM with new noise in each step. Here the noise of the image is found by inversion,
    with the text and negative guidance.
    """

    settings: SDISettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        c, ask = self.settings, batch.conditions
        scale = c.guidance.at(*progress)
        x = self.encode(batch)
        timesteps = self.timesteps(len(x), progress, generator)
        t = send(timesteps, x.device)
        # By the step's greatest level, not by what was drawn: the same in all processes.
        n_steps = c.steps_to(c.t_max.at(*progress))
        path = [t * (i + 1) // n_steps for i in range(n_steps)]
        with torch.no_grad():
            found = invert(
                self.prior,
                x.detach(),
                path,
                lambda z: guided(self.prior, z, ask, c.inversion_guidance),
                perturb=partial(_perturb, c.inversion_noise, generator),
            )
            gradient = x.detach() - self.guided(found[-1][0], ask, scale).clean
        return self.result(x, gradient, timesteps, guidance=scale)


def _perturb(share: float, generator: Generators, z: Noisy, before: Noisy) -> Noisy:
    """Noise on top of an inverted image, `share` of what DDIM adds between the two levels."""
    if share == 0.0:
        return z
    variance = (before.sigma / z.sigma) ** 2 * (1.0 - (z.alpha / before.alpha) ** 2)
    noise = send(randn(z.value.shape, generator), z.value.device)
    return replace(z, value=z.value + share * variance.clamp(min=0.0).sqrt() * noise)
