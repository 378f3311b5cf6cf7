"""SDS, HiFA and the diffusion loss that SDS is compared with."""

from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import interpolate

from dreamfusion.diffusion.predictions import add_noise
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weight, weighted_error
from dreamfusion.distillation.sds.settings import DiffusionLossSettings, HiFASettings
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class SDSEstimator(ScoreEstimator):
    """Score Distillation Sampling (DreamFusion, section 3).

    For images x = g(theta), t ~ U(t_min, t_max), noise e ~ N(0, I) and z = alpha_t x + sigma_t e:

        grad_theta L_SDS = E[ w(t) (e_hat(z; y, t) - e) dx/dtheta ]                          (eq. 3)

    The diffusion model is never differentiated: (e_hat - e) counts as a constant, so that only the
    generator (and, for a latent model, its image encoder) takes part in the backward pass. e_hat is
    under classifier-free guidance, uncond + s (text - uncond).
    """

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        scale = self.settings.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        with torch.no_grad():
            prediction = self.guided(z, batch.conditions, scale)
            gradient = weighted_error(prediction, x.detach(), self.settings.weighting)
        return self.result(x, gradient, timesteps, guidance=scale)


class HiFAEstimator(ScoreEstimator):
    """HiFA (Zhu et al. 2024): SDS with a second loss, on the images themselves.

        L = L_SDS + weight |image - decode(x_hat)|^2                                         (eq. 7)

    with one noise level a step, t = t_max - (t_max - t_min) sqrt(step / steps).
    """

    settings: HiFASettings

    def __init__(self, settings: HiFASettings, prior: Any, seed: int) -> None:
        super().__init__(settings, prior, seed)
        if not hasattr(prior, "decode_image"):
            raise UserError(
                f"the estimator {settings.name!r} needs a prior that decodes images, which "
                f"{prior.name} does not"
            )
        self._decode = prior.decode_image

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s = self.settings
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        with torch.no_grad():
            prediction = self.guided(z, batch.conditions, scale)
            gradient = weighted_error(prediction, x.detach(), s.weighting)
            wanted = self._decode(prediction.clean)
        found = self.result(x, gradient, timesteps, guidance=scale)
        images = interpolate(batch.images, wanted.shape[-2:], mode="bilinear", antialias=True)
        loss = s.image_weight * (images - wanted).square().mean()
        return replace(found, losses={**found.losses, f"{s.name}_image": loss})


class DiffusionLossEstimator(ScoreEstimator):
    """The training loss of the prior on the images (DreamFusion, eq. 1 and 2), with gradients
    through the prior, as the paper's comparison.

        L = w(t) |e_hat(alpha x + sigma e) - e|^2 / 2
        grad = w(t) (e_hat - e) (de_hat/dz alpha) dx/dtheta

    SDS leaves out the network's Jacobian, de_hat/dz: it is expensive, and noise at low levels.
    """

    settings: DiffusionLossSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s = self.settings
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        z = add_noise(self.prior, x, z.noise, z.timesteps)  # with gradients
        prediction = self.guided(z, batch.conditions, scale)
        error = prediction.noise - z.noise
        loss = 0.5 * (weight(z.alpha, z.sigma, s.weighting) * error.square()).mean()
        return Distilled({s.name: loss}, {"guidance": scale}, timesteps)
