"""`dreamfusion.json`, which a prior's folder may hold: how to speak to it and what it has seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.priors.folder import CARD, PriorError, one_line, read_json
from dreamfusion.prompts import PAPER_VIEWS, ViewVocabulary

FORMAT = 1
Range = tuple[float, float]


@dataclass(frozen=True)
class CameraRanges:
    """Cameras and lights that suit a prior: degrees and scene units.

    Where a prior says nothing: these, near DreamFusion's (appendix A.2) but for a longer lens,
    with which the whole object stays in the picture.
    """

    elevation_deg: Range = (-10.0, 60.0)
    distance: Range = (2.6, 3.2)
    fov_y_deg: Range = (35.0, 45.0)
    light_distance: Range = (2.0, 4.0)


@dataclass(frozen=True)
class PriorCard:
    """What a prior says of itself."""

    vocabulary: ViewVocabulary = PAPER_VIEWS
    camera: CameraRanges = CameraRanges()


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
        return PriorCard(vocabulary, _camera(content.get("camera", {})))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise PriorError(
            f"{path} is malformed: {type(error).__name__}: {one_line(error)}"
        ) from None


def _camera(content: dict[str, Any]) -> CameraRanges:
    ranges: dict[str, Range] = {}
    for key, value in content.items():
        low, high = value
        if low > high:
            raise ValueError(f"camera.{key}: {low} is greater than {high}")
        ranges[key] = (float(low), float(high))
    return CameraRanges(**ranges)
