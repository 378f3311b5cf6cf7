"""Priors: pretrained diffusion models, with their texts. The only place that knows diffusers.

A prior is a folder in diffusers' layout, wherever it comes from: the one shipped with the package,
a path, or the hub. Importing this package is cheap; loading a model is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors.card import PriorCard, read_card
from dreamfusion.priors.files import PriorError
from dreamfusion.priors.resolve import ResolvedPrior, resolve_prior
from dreamfusion.priors.settings import PriorSettings

if TYPE_CHECKING:
    from dreamfusion.priors.base import Prior
    from dreamfusion.priors.model import DiffusionPrior

__all__ = [
    "DiffusionPrior",
    "PriorCard",
    "PriorError",
    "PriorSettings",
    "ResolvedPrior",
    "load_prior",
    "read_card",
    "resolve_prior",
]


def load_prior(
    prior: str | ResolvedPrior | PriorSettings = "auto",
    options: PriorConfig | None = None,
    *,
    device: str = "cpu",
    prompts: Sequence[str] | None = None,
    views: int | None = None,
) -> Prior:
    """A prior (auto, embedded, a path, a hub id, or one that was resolved), frozen, on `device`.

    options: precision of the denoiser (auto, float32, bfloat16, float16; on CUDA the text encoders
        follow it, elsewhere they are float32) and of the autoencoder, compiling, and what saves GPU
        memory. Its name and texts say nothing here.
    prompts: all texts that there will be. They are encoded, and the text encoders freed, before
        the denoiser is loaded. Without it: when asked for, or by `DiffusionPrior.prepare`.
    views: pictures a step. On CUDA a step that will not fit into the free memory is refused.

    Raises PriorError, one line that says what is wrong and what to do. A prompt that is longer than
    the model reads is cut off, with a RunWarning.
    """
    options = PriorConfig() if options is None else options
    if isinstance(prior, PriorSettings):
        return prior.build(device=device, prompts=prompts)
    if isinstance(prior, str):
        prior = resolve_prior(prior, device=device, dtype=options.dtype)
    from dreamfusion.priors.model import load

    return load(prior, options, device=device, prompts=prompts, views=views)


def __getattr__(name: str) -> object:
    if name == "DiffusionPrior":
        from dreamfusion.priors.model import DiffusionPrior

        return DiffusionPrior
    raise AttributeError(name)
