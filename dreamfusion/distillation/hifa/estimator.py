"""HiFA (Zhu et al. 2024): supervision of latents and of images.

    L = L_SDS + weight |image - decode(x_hat)|^2                                            (eq. 7)

with one noise level a step, t = t_max - (t_max - t_min) sqrt(step / steps).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import interpolate

from dreamfusion.distillation.base import Batch, Distilled, ScoreEstimator, weighted_error
from dreamfusion.distillation.hifa.settings import HiFASettings
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators
from dreamfusion.utils.state import Progress


class HiFAEstimator(ScoreEstimator):
    """SDS with a second loss, on the images themselves."""

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
