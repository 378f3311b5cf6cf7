"""View-dependent prompts: words for the side of the object that a camera sees.

A prior that was trained on particular view words has them on its card (`dreamfusion.json`). Other
priors use the paper's four: front, side, back and overhead view. Angles are degrees, in the frame
of `cameras.py`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal, get_args

from dreamfusion.priors.reading import PromptError, Words, read_prompt, require_known

Shading = Literal["albedo", "lambertian", "textureless"]


@dataclass(frozen=True)
class AzimuthView:
    """Text for the azimuths that are nearest to `center_deg`."""

    center_deg: float
    text: str


@dataclass(frozen=True)
class ElevationView:
    """Text for min_deg <= elevation < max_deg. With `alone`, the azimuth text is left out."""

    min_deg: float
    max_deg: float
    text: str
    alone: bool = False


@dataclass(frozen=True)
class ViewVocabulary:
    """The words of a prior for views and shadings.

    shading: the words for each shading (none if missing or empty).
    words: the words that the prior knows. None: it accepts any text.
    """

    azimuth: tuple[AzimuthView, ...]
    elevation: tuple[ElevationView, ...]
    shading: Mapping[str, str] = field(default_factory=dict)
    words: Words | None = None

    @classmethod
    def from_mapping(cls, content: Mapping[str, Any]) -> ViewVocabulary:
        """Convert a prior's `dreamfusion.json`. Missing entries are as in the paper. Raises
        ValueError, KeyError or TypeError if it is malformed."""
        views = content.get("views", {})
        azimuth = [AzimuthView(float(v["center_deg"]), str(v["text"])) for v in views["azimuth"]]
        elevation = [ElevationView(**view) for view in views.get("elevation", [])]
        if not azimuth:
            raise ValueError("views.azimuth is empty")
        return cls(
            tuple(azimuth),
            tuple(elevation),
            dict(content.get("shading", {})),
            None if content.get("words") is None else Words.from_mapping(content),
        )

    def canonical(self, prompt: str) -> str:
        """`prompt` in the words that the prior was trained on; unchanged if it has no word list.
        Raises PromptError for a prompt that the prior cannot generate; see `read_prompt`."""
        _require_text(prompt)
        if not prompt.strip():
            raise PromptError('The prompt is empty. Name one object, for example "a red mug".')
        return " ".join(prompt.split()) if self.words is None else read_prompt(self.words, prompt)

    def require_known(self, text: str) -> None:
        """Raise PromptError if a text contains a word unknown to the prior; see
        `reading.require_known`."""
        _require_text(text)
        if self.words is not None:
            require_known(self.words, text)

    def view_prompt(
        self, prompt: str, azimuth_deg: float, elevation_deg: float, shading: Shading = "albedo"
    ) -> str:
        """`prompt` with the words for a view and a shading. azimuth_deg: any real number;
        elevation_deg: in [-90, 90]."""
        nearest = min(self.azimuth, key=lambda view: _angle(azimuth_deg, view.center_deg))
        return self._fill(prompt, nearest.text, elevation_deg, shading)

    def blended_prompts(
        self, prompt: str, azimuth_deg: float, elevation_deg: float, shading: Shading = "albedo"
    ) -> list[tuple[str, float]]:
        """The prompts of the two views nearest to an azimuth, as (text, weight); weights sum to 1.
        Mixing their embeddings makes the text vary smoothly with the camera, while `view_prompt`
        jumps. Returns a single one if both are equal."""
        offsets = [((view.center_deg - azimuth_deg) % 360.0, view) for view in self.azimuth]
        to_after, after = min(offsets, key=itemgetter(0))
        to_before, before = max(offsets, key=itemgetter(0))
        gap = to_after + 360.0 - to_before
        share = (360.0 - to_before) / gap  # of the way from `before` to `after`
        mixed: dict[str, float] = {}
        for view, weight in ((before, 1.0 - share), (after, share)):
            text = self._fill(prompt, view.text, elevation_deg, shading)
            mixed[text] = mixed.get(text, 0.0) + weight
        return [(text, weight) for text, weight in mixed.items() if weight > 0.0]

    def negative_prompts(
        self, prompt: str, azimuth_deg: float, elevation_deg: float, shading: Shading = "albedo"
    ) -> list[tuple[str, float]]:
        """The prompts of front and sides that an image from this view should not show, as
        (text, weight), for Perp-Neg (Armandpour et al. 2023).

        The weights are those of stable-dreamfusion and threestudio; see `_opposition`. The back has
        none. Prompts equal to this view's are left out; so are all prompts if the elevation's words
        stand alone ("overhead view").
        """
        current = self.view_prompt(prompt, azimuth_deg, elevation_deg, shading)
        weights: dict[str, float] = {}
        for side in (0.0, 90.0, 270.0):
            text = self.view_prompt(prompt, side, elevation_deg, shading)
            weight = _opposition(azimuth_deg, side)
            if text != current and weight > 0.0:
                weights[text] = min(weight, weights.get(text, weight))  # "side view" is both sides
        return list(weights.items())

    def plain_prompt(self, prompt: str, shading: Shading = "albedo") -> str:
        """`prompt` with the words for a shading, without those for a view."""
        return self._join(prompt, self.shading.get(shading, ""))

    def all_prompts(self, prompt: str) -> list[str]:
        """The prompts of all views and shadings, so that they can be encoded beforehand."""
        elevations = [0.0, *(view.min_deg for view in self.elevation)]
        elevations += [max(view.max_deg, -90.0) for view in self.elevation]
        places = itertools.product(get_args(Shading), elevations, self.azimuth)
        texts = (self._fill(prompt, view.text, at, shading) for shading, at, view in places)
        return list(dict.fromkeys(texts))

    def _fill(self, prompt: str, azimuth: str, elevation_deg: float, shading: Shading) -> str:
        """`prompt`, and the words for azimuth, elevation and shading, without empty ones."""
        above = ""
        for view in self.elevation:
            at_the_top = elevation_deg == view.max_deg == 90.0
            if view.min_deg <= elevation_deg < view.max_deg or at_the_top:
                above, azimuth = view.text, "" if view.alone else azimuth
                break
        return self._join(prompt, azimuth, above, self.shading.get(shading, ""))

    @staticmethod
    def _join(*parts: str) -> str:
        return ", ".join(part.strip() for part in ",".join(parts).split(",") if part.strip())


def _require_text(prompt: str) -> None:
    """Raise PromptError if the prompt is not valid UTF-8."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptError(
            "The prompt is not valid UTF-8 text. Type it again in a terminal that uses UTF-8."
        ) from None


PAPER_VIEWS = ViewVocabulary(
    azimuth=tuple(
        AzimuthView(90.0 * i, f"{side} view")
        for i, side in enumerate(("front", "side", "back", "side"))
    ),
    elevation=(ElevationView(60.0, 90.0, "overhead view", alone=True),),
)


def _opposition(azimuth_deg: float, side_deg: float) -> float:
    """The weight against a side, by camera azimuth. For the front: 0 in front, 1.57 at the sides,
    1.97 behind. For a side: 1.57 in front, 0 at it, .39 behind; opposite it as for the front."""
    off, away = _angle(azimuth_deg, 0.0) / 90.0, _angle(azimuth_deg, side_deg)
    if side_deg != 0.0 and away <= 90.0:
        near, far = off, -0.606
    else:
        off = off if side_deg == 0.0 else _angle(away, 0.0) / 90.0
        near, far = 1.0 - off, 0.967
    return 4.0 * math.exp(-0.5 * near) - 2.426 if off < 1.0 else math.exp(-0.5 * (2.0 - off)) + far


def _angle(a_deg: float, b_deg: float) -> float:
    """The angle between two directions, in [0, 180] degrees."""
    return abs((a_deg - b_deg + 180.0) % 360.0 - 180.0)
