"""Further priors: the judges, for the estimator `clip` (--prior clip, --prior toy-classifier), and
the exact answer of the toy world (--prior oracle)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamfusion.config.sections import setting
from dreamfusion.priors import PriorCard, PriorSettings, resolve_prior
from dreamfusion.utils.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dreamfusion.diffusion.condition import Condition, TextEmbedding
    from dreamfusion.evaluation.judges import ClipJudge, ToyJudge


@dataclass(frozen=True)
class CLIPGuideSettings(PriorSettings):
    """CLIP or SigLIP as a prior."""

    name: str = setting("clip", "name of the prior")
    model: str = setting("b32", "CLIP or SigLIP model: b32, b16, l14, a hub id or a folder")

    def build(self, *, device: str, prompts: Sequence[str] | None) -> Any:
        from dreamfusion.evaluation.judges import CLIPS, ClipJudge

        return CLIPGuide(ClipJudge(CLIPS.get(self.model, self.model)), self.card, device)


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
        from dreamfusion.evaluation.judges import ToyJudge

        return ToyGuide(ToyJudge("toy"), self.card, device)


@dataclass(frozen=True)
class OracleSettings(PriorSettings):
    """The exact posterior mean over images of the prompt's noun and colour, in place of a network.

    It separates errors of the prior from errors of the distillation.
    """

    name: str = setting("oracle", "the prior")
    shapes: int = setting(100, "variants of the object", low=1, high=10_000)
    images: int = setting(16, "images of each variant in every shading", low=1, high=1000)

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

        objects = {text.split(",")[0] for text in prompts or () if text}
        if len(objects) != 1:
            raise UserError("the oracle needs one prompt with a noun of the toy world")
        noun, color = read_pair(objects.pop())
        prior = DiffusionPrior.from_pretrained("embedded", device=device)
        bank = bank_of(noun, prior, color=color, shapes=self.shapes, views=self.images)
        if device != "cpu":
            bank = {words: images.to(device) for words, images in bank.items()}
        return Oracle(prior, bank)


class CLIPGuide:
    """Cosine similarity of image and text."""

    name = "clip"

    def __init__(self, judge: ClipJudge, card: PriorCard, device: str) -> None:
        import torch

        self.card, self.device, self.dtype = card, torch.device(device), torch.float32
        self.shape = (3, judge.size, judge.size)
        self._judge = judge.to(device)

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Unit vectors (n, 1, d)."""
        from dreamfusion.diffusion.condition import TextEmbedding

        return TextEmbedding(self._judge.embed_texts(prompts)[:, None])

    def similarity(self, images: Tensor, condition: Condition) -> Tensor:
        """See `distillation.clip.estimator.ComparesImages`."""
        found = self._judge.embed_images(images)
        return (found * condition.text.tokens[:, 0]).sum(dim=1)


class ToyGuide:
    """The log-probability of noun and colour, and of the side where the object has a face."""

    name = "toy-classifier"

    def __init__(self, judge: ToyJudge, card: PriorCard, device: str) -> None:
        import torch

        self.card, self.device, self.dtype = card, torch.device(device), torch.float32
        self.shape = (3, judge.size, judge.size)
        self._network = judge.network.requires_grad_(False).to(device)

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Indices of noun and colour, and whether the noun has a face: (n, 1, 3)."""
        import torch

        from dreamfusion.diffusion.condition import TextEmbedding
        from dreamfusion.evaluation.judges import FACED, read_pair
        from dreamfusion.evaluation.toy_network import COLOR_NAMES, NOUN_NAMES

        rows = []
        for prompt in prompts:
            words = prompt.split(",")[0]  # the view words follow
            noun, color = read_pair(words) if words else (NOUN_NAMES[0], COLOR_NAMES[0])
            rows.append([NOUN_NAMES.index(noun), COLOR_NAMES.index(color), noun in FACED])
        return TextEmbedding(torch.tensor(rows, device=self.device).float()[:, None])

    def similarity(self, images: Tensor, condition: Condition) -> Tensor:
        """See `distillation.clip.estimator.ComparesImages`."""
        from torch.nn.functional import interpolate

        from dreamfusion.evaluation.toy_network import AZIMUTHS

        images = interpolate(images, self.shape[1:], mode="bilinear", antialias=True)
        logits = self._network(images)
        noun, color, faced = condition.text.tokens[:, 0].long().unbind(1)

        def log_share(name: str, which: torch.Tensor) -> Tensor:
            return logits[name].log_softmax(1).gather(1, which[:, None])[:, 0]

        found = log_share("noun", noun) + log_share("color", color)
        if condition.cameras is not None:
            turns = condition.cameras.azimuth_deg.to(images.device) / 360.0
            side = (turns * AZIMUTHS).round().long() % AZIMUTHS
            found = found + faced * log_share("azimuth", side)
        return found
