"""Estimators that move along differences of predictions: CSD, NFSD, SDS-Bridge, ASD, DDS."""

import torch

from dreamfusion.diffusion.condition import Conditions
from dreamfusion.diffusion.predictions import add_noise, group_size, predictions
from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weighted_error
from dreamfusion.distillation.differences.settings import (
    ASDSettings,
    BridgeSettings,
    CSDSettings,
    DDSSettings,
    NFSDSettings,
)
from dreamfusion.utils.devices import send
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators, rand
from dreamfusion.utils.state import Progress


class CSDEstimator(ScoreEstimator):
    """Classifier Score Distillation (Yu et al. 2024, "Text-to-3D with Classifier Score
    Distillation"): moves images along the difference that the text makes to a prediction.

        grad = w(t) s (e_text + u e_negative + v e_nothing),   u + v = -1                    (eq. 9)

    With u = 0 it is the guidance term of SDS; the rest of SDS, e_nothing - e, is left out.
    """

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
            gradient = self.weighted(z, scale * (text - away))
        return self.result(x, gradient, timesteps, guidance=scale)


class NFSDEstimator(ScoreEstimator):
    """Noise-Free Score Distillation (Katzir et al. 2024): along guidance and towards the domain.

        grad = w(t) (s (e_text - e_nothing) + d_D)                                          (eq. 10)

    d_D leads towards the domain of the prior's images: e_nothing at low noise, where it holds
    nothing else, and e_nothing - e_negative above.
    """

    settings: NFSDSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        s, ask = self.settings, batch.conditions
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        with torch.no_grad():
            asked = (ask.text, ask.unconditional, ask.named["negative"])
            text, nothing, negative = (p.noise for p in predictions(self.prior, z, *asked))
            low = z.timesteps < s.clean_below * len(self.prior.alphas)
            low = low.reshape(-1, *[1] * (x.dim() - 1))
            domain = torch.where(low, nothing, nothing - negative)
            gradient = self.weighted(z, scale * (text - nothing) + domain)
        return self.result(x, gradient, timesteps, guidance=scale)


class BridgeEstimator(ScoreEstimator):
    """SDS-Bridge (McAllister et al. 2024, "Rethinking Score Distillation as a Bridge").

    SDS until the switch. Then the images are no longer images without a text but flawed ones:

        grad = w(t) s (e_wanted - e_flawed)                                            (section 4.2)
    """

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
                gradient = self.weighted(z, scale * (wanted.noise - flawed.noise))
        return self.result(x, gradient, timesteps, guidance=scale)


class ASDEstimator(ScoreEstimator):
    """Asynchronous Score Distillation (Ma et al. 2024, "ScaleDreamer"): the difference of
    predictions at two noise levels of the same noise.

        grad = w(t) (e_hat(z_t) - e_text(z_{t + d})),   d ~ U(0, shift (t - t_min))         (eq. 11)

    A prediction at a later timestep has the smaller error on images that the prior does not know,
    which is what VSD trains a network for.
    """

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
            (at_later,) = predictions(self.prior, shifted, batch.conditions.text)
            gradient = self.weighted(z, wanted - at_later.noise)
        return self.result(x, gradient, timesteps, guidance=scale)


class DDSEstimator(ScoreEstimator):
    """Delta Denoising Score (Hertz et al. 2023), for edits: the difference of SDS on an image and
    on the image before the edit.

        grad = e_hat(z; prompt) - e_hat(z'; source)                                          (eq. 3)

    z' is the unedited image with the same noise and noise level. The gradient that SDS has even for
    an image that needs no change cancels.
    """

    settings: DDSSettings

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        if batch.source is None:
            raise UserError("the estimator 'dds' edits an existing scene: set start=RUN")
        s, ask = self.settings, batch.conditions
        scale = s.guidance.at(*progress)
        x, z, timesteps = self.noised(batch, progress, generator)
        before = Conditions(ask.named["source"], ask.unconditional)
        with torch.no_grad():
            source = self.prior.encode_image(batch.source())
            z_source = add_noise(self.prior, source, z.noise, z.timesteps)
            wanted = self.guided(z, ask, scale).noise
            unedited = self.guided(z_source, before, scale).noise
            gradient = self.weighted(z, wanted - unedited)
        return self.result(x, gradient, timesteps, guidance=scale)
