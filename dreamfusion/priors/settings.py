"""Settings of a prior that another package brings: the section `prior`, with its name. No torch."""

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
    """A prior and its settings beside the usual ones of `prior`. Found by the entry points
    `dreamfusion.priors`; `--prior NAME` chooses it. Stands, until it is built, where a
    `resolve.ResolvedPrior` does otherwise."""

    @property
    def card(self) -> PriorCard:
        """Which words, cameras and lights it knows."""
        return PriorCard()

    @property
    def preset(self) -> str:
        """The preset that suits it, where the user chose none."""
        return "embedded"

    @abstractmethod
    def build(self, *, device: str, prompts: Sequence[str] | None) -> Prior:
        """The prior, frozen, on a device. prompts: all texts that there will be; None: unknown."""
