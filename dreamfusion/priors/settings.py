"""Base class for the settings of a prior from another package. Does not import torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors.card import PriorCard

if TYPE_CHECKING:
    from dreamfusion.priors.base import Prior


@dataclass(frozen=True)
class PriorSettings(PriorConfig, ABC):
    """Settings of a prior from the entry points `dreamfusion.priors`, chosen by `--prior NAME`: the
    section `prior`, with further fields. Used like a `resolve.ResolvedPrior` until it is built."""

    @property
    def card(self) -> PriorCard:
        """Prompt vocabulary, cameras and lights of the prior."""
        return PriorCard()

    @property
    def preset(self) -> str:
        """The default preset for this prior."""
        return "embedded"

    @abstractmethod
    def build(self, *, device: str, prompts: Sequence[str] | None) -> Prior:
        """Load the prior, frozen, on a device. prompts: all texts of the run; None: unknown."""
