"""What a run tells its prior: every text it needs, encoded once, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.core import NegativePrompt, TextEmbedding
from dreamfusion.priors.view_prompts import (
    Shading,
    ViewVocabulary,
    all_prompts,
    blended_prompts,
    negative_view_prompts,
    view_prompt,
)
from dreamfusion.utils.devices import send


class EncodesText(Protocol):
    """What the table asks of a prior."""

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding: ...


def texts_of(vocabulary: ViewVocabulary, prompt: str, options: PriorConfig) -> list[str]:
    """Every text that a run of a canonical prompt can ask its prior about."""
    seen = [prompt] if options.view_prompts == "none" else all_prompts(vocabulary, prompt)
    return list(dict.fromkeys([*seen, options.negative_prompt]))


class ViewTexts:
    """The embeddings of all views' prompts, asked by where the cameras are.

    prompt: canonical, see `ViewVocabulary.canonical`. options: of view prompts, the negative
    prompt and Perp-Neg.
    """

    def __init__(
        self, prior: EncodesText, vocabulary: ViewVocabulary, prompt: str, options: PriorConfig
    ) -> None:
        self.vocabulary, self.prompt, self.options = vocabulary, prompt, options
        texts = texts_of(vocabulary, prompt, options)
        self._rows = {text: row for row, text in enumerate(texts)}
        self._table = prior.encode_text(texts)
        self.unconditional = self._embed([options.negative_prompt])

    def of_views(
        self, azimuth_deg: Sequence[float], elevation_deg: Sequence[float], shading: Shading
    ) -> tuple[TextEmbedding, list[NegativePrompt]]:
        """What the prior is told of each of n views, and what each should not show (Perp-Neg)."""
        vocabulary, prompt, how = self.vocabulary, self.prompt, self.options
        places = list(zip(azimuth_deg, elevation_deg, strict=True))
        mixed = [[(prompt, 1.0)]] * len(places)
        if how.view_prompts == "nearest":
            mixed = [[(view_prompt(vocabulary, prompt, *at, shading), 1.0)] for at in places]
        elif how.view_prompts == "blended":
            mixed = [blended_prompts(vocabulary, prompt, *at, shading) for at in places]
        # Of at most two texts a view, the share of the second.
        text = self._embed([texts[0][0] for texts in mixed]).lerp(
            self._embed([texts[-1][0] for texts in mixed]),
            torch.tensor([texts[-1][1] if len(texts) > 1 else 0.0 for texts in mixed]),
        )
        if how.perp_neg == 0.0 or how.view_prompts == "none":
            return text, []
        others = [negative_view_prompts(vocabulary, prompt, *at, shading) for at in places]
        negatives = []
        for i in range(max(map(len, others))):
            # A view with fewer other sides opposes its own text, with no weight.
            pairs = [
                found[i] if i < len(found) else (own[0][0], 0.0)
                for found, own in zip(others, mixed, strict=True)
            ]
            weight = torch.tensor([how.perp_neg * weight for _, weight in pairs])
            negatives.append(NegativePrompt(self._embed([text for text, _ in pairs]), weight))
        return text, negatives

    def _embed(self, texts: Sequence[str]) -> TextEmbedding:
        rows = torch.tensor([self._rows[text] for text in texts])
        return self._table[send(rows, self._table.tokens.device)]
