from .card import PriorCard, PriorSettings, read_card
from .layout import PriorError
from .model import DiffusionPrior, load_prior
from .resolve import ResolvedPrior, resolve_prior

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
