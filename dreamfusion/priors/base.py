"""The interface of priors: pretrained, text-conditioned models of images."""

from collections.abc import Sequence
from typing import Protocol

import torch

from dreamfusion.diffusion.condition import TextEmbedding
from dreamfusion.diffusion.predictions import NoisePredictor
from dreamfusion.priors.card import PriorCard


class Prior(NoisePredictor, Protocol):
    """A loaded, frozen diffusion model with its text encoders.

    shape: of one encoded image, usually (c, h, w). An estimator that needs more than this interface
    checks for it in `build`.
    """

    name: str
    device: torch.device
    dtype: torch.dtype
    card: PriorCard
    shape: tuple[int, ...]

    def encode_text(self, prompts: Sequence[str], /) -> TextEmbedding:
        """Embeddings of n texts. All texts of an optimisation are known before the prior is loaded,
        so that its text encoders can be freed."""
        ...
