"""The words of the toy world: captions for training, and the vocabulary file of the prior.

A caption names the object in canonical words ("tall red mug"), then azimuth, elevation and
shading: "tall red mug, front left view, from above, clay". In prompts, synonyms, fillers and word
order are resolved by the `words` of the vocabulary file before encoding.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dreamfusion.toyworld.nouns import NOUNS
from dreamfusion.toyworld.objects import (
    ADJECTIVES,
    AZIMUTH_WORDS,
    COLORS,
    SHADING_WORDS,
    VIEWS,
    WORDS,
    azimuth_word,
    elevation_word,
)

TEMPLATE: str = WORDS["prompt_template"]
OPPOSITES: list[list[str]] = WORDS["opposites"]
EXAMPLES: list[str] = WORDS["examples"]
# The nouns by subject.
GROUPS: dict[str, list[str]] = {}
for _noun in NOUNS:
    GROUPS.setdefault(_noun.group, []).append(_noun.name)


def caption(
    noun: str,
    color: str | None,
    adjective: str | None,
    azimuth_deg: float,
    elevation_deg: float,
    shading: str,
    rng: np.random.Generator,
) -> str:
    """A training caption. A quarter have another word order, a tenth do not name the view."""
    words = [word for word in (adjective, color, noun) if word]
    if rng.random() < 0.25:
        words = [words[i] for i in rng.permutation(len(words))]
    shading_word = SHADING_WORDS[shading]
    if rng.random() < 0.1:
        return f"{' '.join(words)}, {shading_word}"
    return TEMPLATE.format(
        prompt=" ".join(words),
        azimuth=azimuth_word(azimuth_deg),
        elevation=elevation_word(elevation_deg),
        shading=shading_word,
    )


def known_words() -> dict[str, str]:
    """All words and phrases of prompts, with their canonical word ("" for fillers)."""
    words = dict.fromkeys(WORDS["fillers"], "")
    words |= {color: color for color in COLORS} | _meanings("color_synonyms")
    shaded = {color: color for color in COLORS if color not in ("black", "white")}
    shaded |= {"grey": "gray"}
    words |= {
        f"{shade} {typed}": color for typed, color in shaded.items() for shade in WORDS["shades"]
    }
    words |= {adjective: adjective for adjective in ADJECTIVES} | _meanings("adjective_synonyms")
    for noun in NOUNS:
        words |= dict.fromkeys((noun.name, *noun.synonyms), noun.name)
    return words


def _meanings(table: str) -> dict[str, str]:
    return {word: known for known, words in WORDS[table].items() for word in words}


def related_words() -> dict[str, list[str]]:
    """Words that are not in the toy world, each with the words closest in meaning."""
    related: dict[str, list[str]] = {word: [] for word in WORDS["close_to_nothing"].split()}
    for known, others in WORDS["close_to"].items():
        for word in others.split():
            related.setdefault(word, []).append(known)
    return related


def vocabulary_file(
    camera: dict[str, Any], light: dict[str, Any], background: tuple[float, float]
) -> dict[str, Any]:
    """The content of a prior's `dreamfusion.json` (read by `dreamfusion.priors.card`)."""
    return {
        "format": 1,
        "nouns": [noun.name for noun in NOUNS],
        "colors": list(COLORS),
        "adjectives": list(ADJECTIVES),
        "words": known_words(),
        "groups": GROUPS,
        "related": related_words(),
        "opposites": OPPOSITES,
        "examples": EXAMPLES,
        "views": VIEWS,
        "shading": SHADING_WORDS,
        "camera": camera,
        "light": light,
        "background": list(background),
    }


def caption_words() -> list[str]:
    """All single words that a caption can contain: the tokens of the prior's tokenizer."""
    words = {word for noun in NOUNS for word in noun.name.split()}
    words |= set(COLORS) | set(ADJECTIVES) | set(AZIMUTH_WORDS) | set(SHADING_WORDS.values())
    words |= {one["text"] for one in VIEWS["elevation"]}
    return sorted(words)
