"""Further priors: the judges, for the estimator `clip` (--prior clip, --prior toy-classifier), and
the exact answer of the toy world (--prior oracle)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreamfusion.config.sections import setting
from dreamfusion.priors import PriorCard, PriorSettings, resolve_prior
from dreamfusion.utils.errors import UserError


@dataclass(frozen=True)
class CLIPGuideSettings(PriorSettings):
    """CLIP or SigLIP as a prior."""

    name: str = setting("clip", "name of the prior")
    model: str = setting("b32", "CLIP or SigLIP model: b32, b16, l14, a hub id or a folder")

    def build(self, *, device: str, prompts: Sequence[str] | None) -> Any:
        from dreamfusion.evaluation.judges import CLIPGuide

        return CLIPGuide(self.model, self.card, device)


@dataclass(frozen=True)
class ToyGuideSettings(PriorSettings):
    """The toy world's classifier of nouns, colours and sides, as a prior."""

    name: str = setting("toy-classifier", "name of the prior")

    @property
    def card(self) -> PriorCard:
        """The words and cameras of the embedded prior. The classifier was trained on shaded images,
        but cannot distinguish shadings."""
        card = resolve_prior("embedded").card
        return PriorCard(card.vocabulary, {**card.settings, "shading": {"lambertian": 0}})

    def build(self, *, device: str, prompts: Sequence[str] | None) -> Any:
        from dreamfusion.evaluation.judges import ToyGuide

        return ToyGuide(self.card, device)


@dataclass(frozen=True)
class OracleSettings(PriorSettings):
    """The exact posterior mean over images of the prompt's noun and colour, in place of a network.

    It separates errors of the prior from errors of the distillation.
    """

    name: str = setting("oracle", "name of the prior")
    shapes: int = setting(100, "variants of the object", low=1, high=10_000)
    images: int = setting(16, "images of each variant in every shading", low=1, high=1000)
    group_size: int = setting(
        1, "number of views that are predicted jointly; `images` is a multiple", low=1, high=8
    )

    @property
    def card(self) -> PriorCard:
        """The words and cameras of the embedded prior."""
        return resolve_prior("embedded").card

    @property
    def preset(self) -> str:
        return "oracle"

    def build(self, *, device: str, prompts: Sequence[str] | None) -> Any:
        from dreamfusion.evaluation.judges import read_pair
        from dreamfusion.evaluation.oracle import Oracle, bank_of
        from dreamfusion.priors import DiffusionPrior

        if self.images % self.group_size:
            raise UserError("prior.images is no multiple of prior.group_size: set it to one")
        objects = {text.split(",")[0] for text in prompts or () if text}
        if len(objects) != 1:
            raise UserError("the oracle needs one prompt with a noun of the toy world")
        noun, color = read_pair(objects.pop())
        prior = DiffusionPrior.from_pretrained("embedded", device=device)
        options = {"shapes": self.shapes, "views": self.images, "group_size": self.group_size}
        bank = bank_of(noun, prior, color=color, **options)
        if device != "cpu":
            bank = {words: images.to(device) for words, images in bank.items()}
        return Oracle(prior, bank, self.group_size)
