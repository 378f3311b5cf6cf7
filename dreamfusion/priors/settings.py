"""Settings of a prior from another package: the section `prior` with its name. No torch."""

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
    """A prior from the entry points `dreamfusion.priors`, chosen by `--prior NAME`, with settings
    besides the usual ones of `prior`. Until it is built, it takes the place of a
    `resolve.ResolvedPrior`."""

    @property
    def card(self) -> PriorCard:
        """The words, cameras and lights that it knows."""
        return PriorCard()

    @property
    def preset(self) -> str:
        """The default preset for this prior."""
        return "embedded"

    @abstractmethod
    def build(self, *, device: str, prompts: Sequence[str] | None) -> Prior:
        """The prior, frozen, on a device. prompts: all texts of the run; None: unknown."""
