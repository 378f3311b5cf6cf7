"""Priors: diffusion models that judge pictures by a text. The only place that knows diffusers.

A prior is a folder in diffusers' layout, wherever it comes from: the one shipped with the package,
a path, or the hub. Importing this package is cheap; loading a model is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dreamfusion.diffusion.priors.card import CameraRanges, Light, PriorCard, read_card
from dreamfusion.diffusion.priors.files import PriorError
from dreamfusion.diffusion.priors.resolve import PriorFolder, find_prior

if TYPE_CHECKING:
    from dreamfusion.diffusion.priors.model import DiffusionPrior

__all__ = [
    "CameraRanges",
    "DiffusionPrior",
    "Light",
    "PriorCard",
    "PriorError",
    "PriorFolder",
    "find_prior",
    "load_prior",
    "read_card",
]


def load_prior(
    name: str = "auto",
    *,
    device: str = "cpu",
    dtype: str = "auto",
    prompts: Sequence[str] | None = None,
    views: int | None = None,
    vae_checkpointing: bool = False,
    vae_slicing: bool = False,
    offload: bool = False,
    compile: bool = False,
) -> DiffusionPrior:
    """The prior `name` (auto, embedded, a path or a hub id), frozen, on `device`.

    dtype: of the denoiser; auto, float32, bfloat16 or float16. On CUDA text encoders and
        autoencoder follow it (but see force_upcast), elsewhere they are float32.
    prompts: all texts that there will be. They are encoded, and the text encoders freed, before
        the denoiser is loaded. Without it: when asked for, or by `DiffusionPrior.prepare`.
    views: pictures a step. On CUDA a step that will not fit into the free memory is refused.
    vae_checkpointing: recompute the autoencoder's activations in the backward pass: slower, with
        less memory. vae_slicing: let it take one picture at a time; with checkpointing this
        recomputes but one at a time.
    offload: keep on the CPU what is not at work: text encoders, and the autoencoder's decoder.
    compile: compile the denoiser (torch.compile): minutes at first, faster steps then.

    Raises PriorError, one line that says what is wrong and what to do; PromptError for a prompt
    that is too long.
    """
    folder = find_prior(name, device=device, dtype=dtype)
    card = read_card(folder.path)
    from dreamfusion.diffusion.priors.model import load

    return load(
        folder,
        card,
        device=device,
        dtype=dtype,
        prompts=prompts,
        views=views,
        vae_checkpointing=vae_checkpointing,
        vae_slicing=vae_slicing,
        offload=offload,
        compile=compile,
    )


def __getattr__(name: str) -> object:
    if name == "DiffusionPrior":
        from dreamfusion.diffusion.priors.model import DiffusionPrior

        return DiffusionPrior
    raise AttributeError(name)
