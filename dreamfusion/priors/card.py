"""What a prior says of itself before it is loaded: its card, and its settings if it is of another
package. Imports no torch.

`dreamfusion.json` is the optional card: the prompt vocabulary and the training views.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamfusion.config.layers import ConfigError, build_config
from dreamfusion.config.schema import PriorConfig
from dreamfusion.priors.layout import CARD, PriorError, require_json
from dreamfusion.priors.view_prompts import PAPER_VIEWS, ViewVocabulary
from dreamfusion.utils.errors import one_line

if TYPE_CHECKING:
    from dreamfusion.priors.base import Prior

FORMAT = 1
LIGHT_SETTINGS = {
    "ambient": "ambient",
    "direction_std": "light_spread",
    "distance": "light_distance",
}


@dataclass(frozen=True)
class PriorCard:
    """The card of a prior.

    settings: cameras, lights and backgrounds of its training data, as a layer of a configuration.
    """

    vocabulary: ViewVocabulary = PAPER_VIEWS
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


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


def read_card(folder: Path) -> PriorCard:
    """The card of the prior in `folder`; the paper's four views if it has none. Raises PriorError
    for a malformed file."""
    path = folder / CARD
    if not path.is_file():
        return PriorCard()
    content = require_json(path, f"{folder} has a broken card")
    if content.get("format") != FORMAT:
        raise PriorError(
            f"{path} has format {content.get('format')!r}, this version reads {FORMAT}; update "
            "dreamfusion or the prior"
        )
    try:
        light = {LIGHT_SETTINGS[key]: value for key, value in content.get("light", {}).items()}
        settings = {"camera": dict(content.get("camera", {})), "shading": light}
        if "background" in content:
            settings["background"] = {"brightness": content["background"]}
        settings = {section: values for section, values in settings.items() if values}
        card = PriorCard(ViewVocabulary.from_mapping(content), settings)
        card.vocabulary.all_prompts("")  # compares the angles
        build_config(card.settings)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ConfigError) as error:
        raise PriorError(
            f"{path} is malformed: {type(error).__name__}: {one_line(error)}"
        ) from None
    return card
