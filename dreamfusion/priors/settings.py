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
    `dreamfusion.priors`; `--prior NAME` chooses it."""

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


@dataclass(frozen=True)
class PluginPrior:
    """A prior of another package, before it is built; see `resolve.ResolvedPrior`."""

    settings: PriorSettings

    @property
    def name(self) -> str:
        """What finds it again."""
        return self.settings.name

    @property
    def card(self) -> PriorCard:
        """See `PriorSettings.card`."""
        return self.settings.card

    @property
    def preset(self) -> str:
        """See `PriorSettings.preset`."""
        return self.settings.preset
