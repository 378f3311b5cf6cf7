"""Priors: diffusion models that judge pictures by a text. The only place that knows diffusers.

A prior is a folder in diffusers' layout, wherever it comes from: the one shipped with the package,
a path, or the hub. Importing this package is cheap; loading a model is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreamfusion.priors.card import CameraRanges, Light, PriorCard, read_card
from dreamfusion.priors.folder import PriorError, PriorFolder, find_prior

if TYPE_CHECKING:
    from dreamfusion.priors.model import DiffusionPrior

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


def load_prior(name: str = "auto", *, device: str = "cpu", dtype: str = "auto") -> DiffusionPrior:
    """The prior `name` (auto, embedded, a path or a hub id), frozen, on `device`.

    dtype: of the U-Net; auto, float32, bfloat16 or float16.
    Raises PriorError, one line that says what is wrong and what to do.
    """
    folder = find_prior(name)
    card = read_card(folder.path)
    from dreamfusion.priors.model import load

    return load(folder, card, device=device, dtype=dtype)


def __getattr__(name: str) -> object:
    if name == "DiffusionPrior":
        from dreamfusion.priors.model import DiffusionPrior

        return DiffusionPrior
    raise AttributeError(name)
