"""`dreamfusion.json`, the optional card of a prior: its prompt vocabulary and training views."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import ConfigError, build_config
from dreamfusion.priors.layout import CARD, PriorError, require_json
from dreamfusion.priors.view_prompts import PAPER_VIEWS, ViewVocabulary
from dreamfusion.utils.errors import one_line

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
        card = PriorCard(ViewVocabulary.from_mapping(content), _settings(content))
        build_config(card.settings)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ConfigError) as error:
        raise PriorError(
            f"{path} is malformed: {type(error).__name__}: {one_line(error)}"
        ) from None
    return card


def _settings(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Cameras, lights and backgrounds of the card, as settings of a run."""
    light = {LIGHT_SETTINGS[key]: value for key, value in content.get("light", {}).items()}
    settings = {"camera": dict(content.get("camera", {})), "shading": light}
    if "background" in content:
        settings["background"] = {"brightness": content["background"]}
    return {section: values for section, values in settings.items() if values}
