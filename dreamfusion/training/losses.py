"""Losses on the opacity of images, for every scene."""

from __future__ import annotations

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
    """Mean binary entropy of opacity, in bits: 0 where each pixel is empty or solid, 1 at one half.

    opacity: any shape, in [0, 1]; clamped to 1e-5 from both ends, where the slope is infinite.
    """
    p = opacity.clamp(1e-5, 1.0 - 1e-5)
    return -(p * torch.log2(p) + (1.0 - p) * torch.log2(1.0 - p)).mean()


def opacity_losses(opacity: Tensor, weights: LossConfig, progress: Progress) -> dict[str, Tensor]:
    """The weighted terms, scalars by name, without those of weight 0."""
    terms: dict[str, Tensor] = {}
    if (weight := weights.entropy.at(*progress)) > 0:
        terms["entropy"] = weight * entropy_loss(opacity)
    if (weight := weights.opacity.at(*progress)) > 0:
        terms["opacity"] = weight * opacity_loss(opacity)
    return terms
