"""View words of the toy world, and the pairs of words that training holds out."""

from typing import Any

import numpy as np

from dreamfusion.toyworld.nouns import NOUNS
from dreamfusion.toyworld.objects import COLORS, WORDS

VIEWS: dict[str, list[dict[str, Any]]] = WORDS["views"]
AZIMUTH_WORDS = tuple(str(view["text"]) for view in VIEWS["azimuth"])
SHADING_WORDS: dict[str, str] = WORDS["shading"]


def azimuth_word(azimuth_deg: float) -> str:
    """The word for the direction nearest to an azimuth in degrees (any real number)."""
    step = 360.0 / len(AZIMUTH_WORDS)
    return AZIMUTH_WORDS[round(azimuth_deg / step) % len(AZIMUTH_WORDS)]


def elevation_word(elevation_deg: float) -> str:
    """The word for an elevation in [-90, 90] degrees."""
    return [view["text"] for view in VIEWS["elevation"] if elevation_deg >= view["min_deg"]][-1]


def held_out_pairs(seed: int = 0, share: float = 0.12) -> list[tuple[str, str]]:
    """Pairs of noun and colour that are not in the training data, to measure composition.

    They contain every colour and almost every noun, but never the natural colour of a noun.
    share: fraction of all pairs.
    """
    rng = np.random.default_rng(seed)
    pairs = [(n.name, c) for n in NOUNS for c in COLORS if c != n.color]
    chosen = rng.choice(len(pairs), size=round(share * len(NOUNS) * len(COLORS)), replace=False)
    return [pairs[i] for i in sorted(chosen)]
