"""Losses on the opacity of images, for all kinds of scenes."""

import torch
from torch import Tensor

from dreamfusion.config.schema import LossConfig
from dreamfusion.utils.state import Progress


def opacity_loss(opacity: Tensor) -> Tensor:
    """Mean of sqrt(opacity^2 + 0.01), which favours empty space (DreamFusion, A.3).

    opacity: any shape, in [0, 1]. Returns a value between 0.1 (empty) and 1.005.
    """
    return (opacity.square() + 0.01).sqrt().mean()


def entropy_loss(opacity: Tensor) -> Tensor:
    """Mean binary entropy of opacity, in bits: 0 if all pixels are empty or solid, 1 at one half.

    opacity: any shape, in [0, 1]; clamped to [1e-5, 1 - 1e-5], since the slope is infinite at the
    ends.
    """
    p = opacity.clamp(1e-5, 1.0 - 1e-5)
    return -(p * torch.log2(p) + (1.0 - p) * torch.log2(1.0 - p)).mean()


def opacity_losses(opacity: Tensor, weights: LossConfig, progress: Progress) -> dict[str, Tensor]:
    """The weighted losses, scalars by name, without losses of weight 0."""
    terms: dict[str, Tensor] = {}
    if (weight := weights.entropy.at(*progress)) > 0:
        terms["entropy"] = weight * entropy_loss(opacity)
    if (weight := weights.opacity.at(*progress)) > 0:
        terms["opacity"] = weight * opacity_loss(opacity)
    return terms
