"""The interface of priors: pretrained, text-conditioned models of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from dreamfusion.diffusion.condition import TextEmbedding
from dreamfusion.diffusion.predictions import NoisePredictor
from dreamfusion.priors.card import PriorCard


class Prior(NoisePredictor, Protocol):
    """A diffusion model that is loaded, frozen, with its text encoders.

    shape: (c, h, w), or whatever shape one encoded image has. What else a model can do is a
    protocol of its own (`DecodesImages`); an estimator checks in `build` for what it needs.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    card: PriorCard
    shape: tuple[int, ...]

    def encode_text(self, prompts: Sequence[str], /) -> TextEmbedding:
        """The embeddings of n texts. All texts of an optimisation are known before loading, so that
        the text encoders need not stay in memory."""
        ...


@runtime_checkable
class DecodesImages(Protocol):
    """The inverse of `encode_image`. Used by sampling and by losses on images."""

    def decode_image(self, encoded: Tensor, /) -> Tensor:
        """(n, ...) -> (n, 3, H, W) in [0, 1]."""
        ...
