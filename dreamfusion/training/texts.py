"""The texts of an optimisation, all encoded once in one table."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch

from dreamfusion.config.schema import Config, PriorConfig
from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
from dreamfusion.distillation.settings import EstimatorSettings, Text
from dreamfusion.graphics.cameras import Cameras
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
    """Interface that `ViewTexts` requires from a prior."""

    def encode_text(self, prompts: Sequence[str], /) -> TextEmbedding: ...


def estimator_texts(config: Config) -> Mapping[str, Text]:
    """The further texts of a configuration's estimator, by name."""
    settings = config.estimator
    return settings.texts() if isinstance(settings, EstimatorSettings) else {}


def named_prompt(vocabulary: ViewVocabulary, prompt: str, text: Text) -> str:
    """The canonical prompt of an estimator's text, with `prompt` filled in."""
    filled = text.text.replace("{prompt}", prompt)
    return vocabulary.canonical(filled) if filled.strip() else ""


def texts_of(
    vocabulary: ViewVocabulary,
    prompt: str,
    options: PriorConfig,
    named: Mapping[str, Text] | None = None,
) -> list[str]:
    """All texts that a run with a canonical prompt may pass to its prior.

    named: the texts of the estimator's settings. Raises PromptError for words that the prior does
    not know.
    """

    def of_views(prompt: str, views: bool) -> list[str]:
        with_views = views and options.view_prompts != "none"
        return all_prompts(vocabulary, prompt) if with_views else [prompt]

    found = [*of_views(prompt, True), options.negative_prompt]
    for text in (named or {}).values():
        found += of_views(named_prompt(vocabulary, prompt, text), text.views)
    return list(dict.fromkeys(found))


class ViewTexts:
    """The embeddings of all view prompts, selected by camera position.

    prompt: canonical, see `ViewVocabulary.canonical`. options: settings of view prompts, negative
    prompt and Perp-Neg. named: the texts of the estimator's settings.
    """

    def __init__(
        self,
        prior: EncodesText,
        vocabulary: ViewVocabulary,
        prompt: str,
        options: PriorConfig,
        named: Mapping[str, Text] | None = None,
    ) -> None:
        self.vocabulary, self.prompt, self.options = vocabulary, prompt, options
        named = named or {}
        self._named = {
            name: (named_prompt(vocabulary, prompt, text), text.views)
            for name, text in named.items()
        }
        texts = texts_of(vocabulary, prompt, options, named)
        self._rows = {text: row for row, text in enumerate(texts)}
        self._table = prior.encode_text(texts)
        self.unconditional = self._embed([options.negative_prompt])

    def conditions(self, cameras: Cameras, shading: Shading) -> Conditions:
        """The prior's conditions for n views, including the negative prompts of Perp-Neg."""
        places = list(
            zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), strict=True)
        )

        def condition(text: TextEmbedding) -> Condition:
            return Condition(text.expand(len(places)), cameras)

        text, view_texts = self._of_views(self.prompt, places, shading)
        named = {
            name: condition(
                self._of_views(prompt, places, shading)[0] if views else self._embed([prompt])
            )
            for name, (prompt, views) in self._named.items()
        }
        opposed = [
            (condition(other), weight)
            for other, weight in self._opposed(places, view_texts, shading)
        ]
        return Conditions(condition(text), condition(self.unconditional), opposed, named)

    def _of_views(
        self, prompt: str, places: Sequence[tuple[float, float]], shading: Shading
    ) -> tuple[TextEmbedding, list[str]]:
        """The embeddings of a prompt with the view words of each camera, and the (first) texts."""
        vocabulary, method = self.vocabulary, self.options.view_prompts
        mixed = [[(prompt, 1.0)]] * len(places)
        if method == "nearest":
            mixed = [[(view_prompt(vocabulary, prompt, *at, shading), 1.0)] for at in places]
        elif method == "blended":
            mixed = [blended_prompts(vocabulary, prompt, *at, shading) for at in places]
        # Each view has one or two texts: interpolate by the share of the second.
        text = self._embed([texts[0][0] for texts in mixed]).lerp(
            self._embed([texts[-1][0] for texts in mixed]),
            torch.tensor([texts[-1][1] if len(texts) > 1 else 0.0 for texts in mixed]),
        )
        return text, [texts[0][0] for texts in mixed]

    def _opposed(
        self, places: Sequence[tuple[float, float]], view_texts: Sequence[str], shading: Shading
    ) -> list[tuple[TextEmbedding, torch.Tensor]]:
        """The texts of the other sides, with their negative weight for each view."""
        options = self.options
        if options.perp_neg == 0.0 or options.view_prompts == "none":
            return []
        others = [
            negative_view_prompts(self.vocabulary, self.prompt, *at, shading) for at in places
        ]
        opposed = []
        for i in range(max(map(len, others))):
            # Pad views with fewer other sides with their own text, at weight 0.
            pairs = [
                found[i] if i < len(found) else (text, 0.0)
                for found, text in zip(others, view_texts, strict=True)
            ]
            weight = torch.tensor([options.perp_neg * weight for _, weight in pairs])
            opposed.append((self._embed([text for text, _ in pairs]), weight))
        return opposed

    def _embed(self, texts: Sequence[str]) -> TextEmbedding:
        rows = torch.tensor([self._rows[text] for text in texts])
        return self._table[send(rows, self._table.tokens.device)]
