"""Priors: pretrained diffusion models with their text encoders. Only this package uses diffusers.

A prior is a folder in diffusers' layout: the one shipped with the package, a path, or a model of
the hub. Importing this package is cheap; loading a model is not.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from dreamfusion.priors.card import PriorCard, read_card
from dreamfusion.priors.layout import PriorError
from dreamfusion.priors.resolve import ResolvedPrior, resolve_prior
from dreamfusion.priors.settings import PriorSettings

if TYPE_CHECKING:
    from dreamfusion.priors.model import DiffusionPrior, load_prior

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


def __getattr__(name: str) -> object:
    if name in ("DiffusionPrior", "load_prior"):
        return getattr(import_module("dreamfusion.priors.model"), name)
    raise AttributeError(name)
