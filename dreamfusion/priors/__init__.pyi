from .card import PriorCard, read_card
from .layout import PriorError
from .model import DiffusionPrior, load_prior
from .resolve import ResolvedPrior, resolve_prior
from .settings import PriorSettings

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
