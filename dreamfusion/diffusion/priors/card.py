"""`dreamfusion.json`, which a prior's folder may hold: how to speak to it and what it has seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamfusion.diffusion.priors.files import PriorError, read_json
from dreamfusion.diffusion.priors.layout import CARD
from dreamfusion.diffusion.view_prompts import PAPER_VIEWS, ViewVocabulary
from dreamfusion.utils.errors import one_line

FORMAT = 1
KINDS = ("nouns", "colors", "adjectives")
Range = tuple[float, float]


@dataclass(frozen=True)
class CameraRanges:
    """Cameras that suit a prior: degrees and scene units.

    Where a prior says nothing: these, near DreamFusion's (appendix A.2) but for a longer lens,
    with which the whole object stays in the picture.
    """

    elevation_deg: Range = (-10.0, 60.0)
    distance: Range = (2.6, 3.2)
    fov_y_deg: Range = (35.0, 45.0)


@dataclass(frozen=True)
class Light:
    """Lights that suit a prior: the ambient share (the rest is diffuse), the deviation of the
    light's direction from the camera's, and its distance, scene units. By default DreamFusion's,
    but farther away."""

    ambient: float = 0.1
    direction_std: float = 1.0
    distance: Range = (4.0, 8.0)


@dataclass(frozen=True)
class PriorCard:
    """What a prior says of itself.

    background: range of each channel of the plain backgrounds that suit it, in [0, 1].
    kinds: lists of the words that it was trained on, by what they are ("nouns", "colors", …).
    """

    vocabulary: ViewVocabulary = PAPER_VIEWS
    camera: CameraRanges = CameraRanges()
    light: Light = Light()
    background: Range = (0.0, 1.0)
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_card(folder: Path) -> PriorCard:
    """The card of the prior in `folder`; the paper's four views if it has none.

    Raises PriorError if the file is there but malformed.
    """
    path = folder / CARD
    if not path.is_file():
        return PriorCard()
    content = read_json(path, f"{folder} has a broken card")
    if content.get("format") != FORMAT:
        raise PriorError(
            f"{path} has format {content.get('format')!r}, this version reads {FORMAT}; update "
            "dreamfusion or the prior"
        )
    try:
        vocabulary = ViewVocabulary.from_mapping(content)
        return PriorCard(
            vocabulary,
            CameraRanges(**_numbers(content.get("camera", {}))),
            Light(**_numbers(content.get("light", {}))),
            _background(content.get("background", [0, 1])),
            {key: tuple(content[key]) for key in KINDS if key in content},
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise PriorError(
            f"{path} is malformed: {type(error).__name__}: {one_line(error)}"
        ) from None


def _background(value: Any) -> Range:
    low, high = value
    if not 0 <= low <= high <= 1:
        raise ValueError(f"background: {low}, {high} is no range in [0, 1]")
    return float(low), float(high)


def _numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping of names to numbers or to ranges [low, high], checked."""
    result: dict[str, float | Range] = {}
    for key, value in content.items():
        if isinstance(value, list):
            low, high = value
            if low > high:
                raise ValueError(f"{key}: {low} is greater than {high}")
            result[key] = (float(low), float(high))
        else:
            result[key] = float(value)
    return result
