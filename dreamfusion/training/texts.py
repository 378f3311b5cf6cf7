"""The texts of an optimisation, all encoded once in one table."""

from collections.abc import Sequence
from typing import get_args

import torch

from dreamfusion.config.schema import Config
from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
from dreamfusion.distillation.settings import EstimatorSettings
from dreamfusion.graphics.cameras import Cameras
from dreamfusion.priors.base import Prior
from dreamfusion.priors.view_prompts import Shading, ViewVocabulary
from dreamfusion.utils.devices import send


def estimator_texts(vocabulary: ViewVocabulary, config: Config) -> dict[str, tuple[str, bool]]:
    """The further texts of a configuration's estimator, by name: each canonical prompt, and whether
    to add the words of each view."""
    settings, prompt = config.estimator, vocabulary.canonical(config.prompt)
    texts = settings.texts() if isinstance(settings, EstimatorSettings) else {}
    filled = {name: text.text.replace("{prompt}", prompt) for name, text in texts.items()}
    return {
        name: (vocabulary.canonical(filled[name]) if filled[name].strip() else "", text.views)
        for name, text in texts.items()
    }


def texts_of(vocabulary: ViewVocabulary, config: Config) -> list[str]:
    """All texts that a run may pass to its prior. Raises PromptError for words that the prior does
    not know."""

    def of_views(prompt: str, views: bool) -> list[str]:
        if views and config.prior.view_prompts == "none":
            return [vocabulary.plain_prompt(prompt, shading) for shading in get_args(Shading)]
        return vocabulary.all_prompts(prompt) if views else [prompt]

    found = [*of_views(vocabulary.canonical(config.prompt), True), config.prior.negative_prompt]
    for prompt, views in estimator_texts(vocabulary, config).values():
        found += of_views(prompt, views)
    return list(dict.fromkeys(found))


class ViewTexts:
    """The embeddings of all view prompts of a configuration, selected by camera position."""

    def __init__(self, prior: Prior, config: Config) -> None:
        self.vocabulary, self.options = prior.card.vocabulary, config.prior
        self.prompt = self.vocabulary.canonical(config.prompt)
        self._named = estimator_texts(self.vocabulary, config)
        texts = texts_of(self.vocabulary, config)
        self._rows = {text: row for row, text in enumerate(texts)}
        self._table = prior.encode_text(texts)
        self.unconditional = self._embed([self.options.negative_prompt])

    def conditions(self, cameras: Cameras, shading: Shading) -> Conditions:
        """The prior's conditions for n views, including the negative prompts of Perp-Neg."""
        places = list(
            zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), strict=True)
        )

        def condition(text: TextEmbedding) -> Condition:
            return Condition(text.expand(len(places)), cameras)

        embedded, view_texts = self._of_views(self.prompt, places, shading)
        named = {
            name: condition(
                self._of_views(prompt, places, shading)[0] if views else self._embed([prompt])
            )
            for name, (prompt, views) in self._named.items()
        }
        opposed: list[tuple[Condition, torch.Tensor]] = []
        factor = 0.0 if self.options.view_prompts == "none" else self.options.perp_neg
        if factor != 0.0:
            others = [self.vocabulary.negative_prompts(self.prompt, *at, shading) for at in places]
            for i in range(max(map(len, others))):
                # Pad views with fewer other sides with their own text, at weight 0.
                pairs = [
                    found[i] if i < len(found) else (text, 0.0)
                    for found, text in zip(others, view_texts, strict=True)
                ]
                weight = torch.tensor([factor * weight for _, weight in pairs])
                opposed.append((condition(self._embed([text for text, _ in pairs])), weight))
        return Conditions(condition(embedded), condition(self.unconditional), opposed, named)

    def _of_views(
        self, prompt: str, places: Sequence[tuple[float, float]], shading: Shading
    ) -> tuple[TextEmbedding, list[str]]:
        """The embeddings of a prompt with the view words of each camera, and the (first) texts."""
        vocabulary, method = self.vocabulary, self.options.view_prompts
        mixed = [[(vocabulary.plain_prompt(prompt, shading), 1.0)]] * len(places)
        if method == "nearest":
            mixed = [[(vocabulary.view_prompt(prompt, *at, shading), 1.0)] for at in places]
        elif method == "blended":
            mixed = [vocabulary.blended_prompts(prompt, *at, shading) for at in places]
        # Each view has one or two texts: interpolate by the share of the second.
        text = self._embed([texts[0][0] for texts in mixed]).lerp(
            self._embed([texts[-1][0] for texts in mixed]),
            torch.tensor([texts[-1][1] if len(texts) > 1 else 0.0 for texts in mixed]),
        )
        return text, [texts[0][0] for texts in mixed]

    def _embed(self, texts: Sequence[str]) -> TextEmbedding:
        rows = torch.tensor([self._rows[text] for text in texts])
        return self._table[send(rows, self._table.tokens.device)]
