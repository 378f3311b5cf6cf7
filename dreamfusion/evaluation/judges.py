"""Judges: models that score how well texts match an image; also as priors for the estimator `clip`,
whose settings are in `guides`."""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from dreamfusion.diffusion.condition import Condition, TextEmbedding
from dreamfusion.priors import PriorCard, resolve_prior
from dreamfusion.priors.reading import PromptError
from dreamfusion.toyworld.objects import COLORS, NOUNS, PALETTE
from dreamfusion.utils.errors import UserError, one_line
from dreamfusion.utils.resources import shipped

Look = Literal["color", "shaded", "geometry"]
LOOKS: tuple[Look, ...] = ("color", "shaded", "geometry")
TOY_JUDGES = {"toy": "a", "toy-b": "b"}
# Nouns whose front differs from their back, so that fronts can be counted.
FACED = (
    "corgi", "cat", "rabbit", "duck", "penguin", "owl", "bear", "pig", "elephant", "fish", "turtle",
)  # fmt: skip
CLIPS = {
    "b32": "openai/clip-vit-base-patch32",
    "b16": "openai/clip-vit-base-patch16",
    "l14": "openai/clip-vit-large-patch14",
}

SIZE = 64  # height and width of the toy judges' input, pixels
AZIMUTHS = 8  # classes of azimuth, in order; the first is the front
NOUN_NAMES = tuple(noun.name for noun in NOUNS)
COLOR_NAMES = tuple(PALETTE)  # those of prompts first, then three natural colours of nouns
_WIDTHS = (3, 32, 64, 128, 192)


class JudgeError(UserError):
    """A judge that does not exist or cannot score this prompt."""


class Judge(ABC):
    """Compares images with texts. revision: of its weights. size: of its input, pixels."""

    name: str
    revision: str
    size: int

    @abstractmethod
    def meaning(self, text: str, look: Look) -> Hashable:
        """The meaning of a text for the judge. The judge cannot distinguish texts with the same
        meaning, so they are not distractors of each other. Raises JudgeError for unknown words."""

    def distractors(self) -> list[str]:
        """All texts that the judge knows; an empty list if it accepts any text."""
        return []

    @abstractmethod
    def scores(self, images: Tensor, texts: Sequence[str], look: Look) -> Tensor:
        """Logits (n, m) of how well images (n, s, s, 3) in [0, 1] match each of m texts."""

    def fronts(self, prompt: str, images: Tensor) -> int | None:
        """The number of fronts in evenly spaced views around an object; None if it is unknown."""
        return None


def load_judge(name: str) -> Judge:
    """Load a judge: toy or toy-b (shipped), b32, b16, l14, a hub id or a folder of CLIP or SigLIP.
    Raises JudgeError with a message of one line."""
    return ToyJudge(name) if name in TOY_JUDGES else ClipJudge(CLIPS.get(name, name))


def choose_judge(prompts: Sequence[str]) -> str:
    """The judge for "auto": the shipped one. Raises JudgeError if it does not know a prompt."""
    try:
        for prompt in prompts:
            read_pair(prompt)
    except JudgeError as error:
        raise JudgeError(f"{error}; for any words use CLIP: --judge b32") from None
    return "toy"


@lru_cache(maxsize=4096)
def read_pair(prompt: str) -> tuple[str, str]:
    """The noun and the colour in a prompt; without a colour, the natural colour of the noun. Raises
    JudgeError unless the prompt is a single object in the words of the embedded prior."""
    try:
        words = resolve_prior("embedded").card.vocabulary.canonical(prompt)
    except PromptError as error:
        raise JudgeError(f"the toy judge does not know {prompt!r}: {error}") from None
    padded = f" {words} "
    nouns = [noun for noun in NOUNS if f" {noun.name} " in padded]
    noun = max(nouns, key=lambda one: len(one.name))
    colors = [color for color in COLORS if f" {color} " in padded]
    return noun.name, colors[0] if colors else noun.color


def pairs() -> list[str]:
    """Texts of the 624 pairs of noun and colour that a prompt can contain."""
    return [f"{color} {noun}" for noun in NOUN_NAMES for color in COLORS]


class ToyNetwork(nn.Module):
    """Predicts noun, main colour, noun of an uncoloured (clay) image, and azimuth.

    Input: images (n, 3, SIZE, SIZE) in [0, 1]. Output: a mapping of logits, (n, nouns) "noun",
    (n, colours) "color", (n, nouns) "clay" and (n, AZIMUTHS) "azimuth".
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(_WIDTHS):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after)]
            layers += [nn.SiLU(), nn.Conv2d(after, after, 3, padding=1, groups=8), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        nouns, colors = len(NOUN_NAMES), len(COLOR_NAMES)
        heads = {"noun": nouns, "color": colors, "clay": nouns, "azimuth": AZIMUTHS}
        self.heads = nn.ModuleDict(
            {name: nn.Linear(4 * _WIDTHS[-1], n) for name, n in heads.items()}
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        hidden = self.features(images * 2 - 1)
        return {name: head(hidden) for name, head in self.heads.items()}


class ToyJudge(Judge):
    """The shipped classifiers, trained on the nouns and colours of the toy world."""

    def __init__(self, name: str) -> None:
        file = shipped("assets") / "toy-judge" / f"{TOY_JUDGES[name]}.safetensors"
        self.name = name
        self.revision = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
        self.size = SIZE
        self.network = ToyNetwork()
        self.network.load_state_dict({k: v.float() for k, v in load_file(file).items()})
        self.network.eval()

    def meaning(self, text: str, look: Look) -> Hashable:
        """Noun and colour; for an image without colours, the noun."""
        noun, color = read_pair(text)
        return noun if look == "geometry" else (noun, color)

    def distractors(self) -> list[str]:
        return pairs()

    def scores(self, images: Tensor, texts: Sequence[str], look: Look) -> Tensor:
        """Log-probabilities of noun and colour; of the noun alone for geometry."""
        logits = self.logits(images)
        pairs = [read_pair(text) for text in texts]
        nouns = [NOUN_NAMES.index(noun) for noun, _ in pairs]
        if look == "geometry":
            return logits["clay"].log_softmax(1)[:, nouns]
        colors = [COLOR_NAMES.index(color) for _, color in pairs]
        return logits["noun"].log_softmax(1)[:, nouns] + logits["color"].log_softmax(1)[:, colors]

    def fronts(self, prompt: str, images: Tensor) -> int | None:
        """Number of arcs of azimuth that show a front; None for nouns without a front."""
        if read_pair(prompt)[0] not in FACED:
            return None
        azimuth = self.logits(images)["azimuth"].softmax(1)
        return count_arcs(azimuth[:, [AZIMUTHS - 1, 0, 1]].sum(dim=1) > 0.5)

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """The output of the network for images (n, s, s, 3) in [0, 1]; see `ToyNetwork`."""
        with torch.no_grad():
            return self.network(_resized(images.movedim(-1, 1), SIZE))


class ClipJudge(Judge):
    """CLIP or SigLIP, loaded by transformers."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import cached_file

        self.name = name
        try:
            self._model = AutoModel.from_pretrained(name).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(name)
            file = cached_file(name, "preprocessor_config.json")
            content = json.loads(Path(str(file)).read_text(encoding="utf-8"))
            size = content.get("crop_size") or content["size"]
            pixels = size if isinstance(size, int) else size.get("height") or size["shortest_edge"]
            self.size = int(pixels)
            self._mean, self._std = (
                torch.tensor(content[key])[:, None, None] for key in ("image_mean", "image_std")
            )
        except Exception as error:  # hub, files and configurations raise many kinds of errors
            raise JudgeError(f"judge {name} cannot be loaded: {one_line(error)}") from None
        if not hasattr(self._model, "logit_scale"):
            raise JudgeError(f"{name} is neither CLIP nor SigLIP: it cannot compare texts")
        self.revision = str(getattr(self._model.config, "_commit_hash", None) or "unknown")[:12]

    def meaning(self, text: str, look: Look) -> Hashable:
        """The text itself."""
        return " ".join(text.lower().split())

    def to(self, device: str) -> ClipJudge:
        """Itself, moved to a device."""
        self._model.requires_grad_(False).to(device)
        self._mean, self._std = self._mean.to(device), self._std.to(device)
        return self

    def scores(self, images: Tensor, texts: Sequence[str], look: Look) -> Tensor:
        """The model's logits: scaled cosine similarities."""
        with torch.no_grad():
            return self._model(
                pixel_values=self._pixels(images.movedim(-1, 1)), **self._tokens(texts)
            ).logits_per_image

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors (n, d) of images (n, 3, h, w) in [0, 1], with gradients."""
        return _unit(self._model.get_image_features(pixel_values=self._pixels(images)))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (n, d)."""
        return _unit(self._model.get_text_features(**self._tokens(texts)))

    def _pixels(self, images: Tensor) -> Tensor:
        return (_resized(images, self.size) - self._mean) / self._std

    def _tokens(self, texts: Sequence[str]) -> dict[str, Tensor]:
        # SigLIP was trained on texts padded to the full length, and attends to the padding.
        siglip = self._model.config.model_type.startswith("siglip")
        length = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts),
            padding="max_length" if siglip else True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        ).to(self._mean.device)
        inputs = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        return {name: tokens[name] for name in inputs}


def count_arcs(seen: Tensor) -> int:
    """The number of runs of True around a circle (n,); one if all are True.

    >>> count_arcs(torch.tensor([True, True, False, True, False, True]))
    2
    """
    return 1 if bool(seen.all()) else int((seen & ~seen.roll(1)).sum())


def _unit(found: Any) -> Tensor:
    """Unit vectors of features, which newer versions of transformers wrap."""
    features = found if isinstance(found, Tensor) else found.pooler_output
    return normalize(features, dim=-1)


def _resized(images: Tensor, size: int) -> Tensor:
    """Resize images (n, 3, h, w) to (n, 3, size, size)."""
    return interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


class CLIPGuide:
    """Cosine similarity of image and text."""

    name = "clip"

    def __init__(self, model: str, card: PriorCard, device: str) -> None:
        self.card, self.device, self.dtype = card, torch.device(device), torch.float32
        self._judge = ClipJudge(CLIPS.get(model, model)).to(device)
        self.shape = (3, self._judge.size, self._judge.size)

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Unit vectors (n, 1, d)."""
        return TextEmbedding(self._judge.embed_texts(prompts)[:, None])

    def similarity(self, images: Tensor, condition: Condition) -> Tensor:
        """See `distillation.clip.estimator.ComparesImages`."""
        return (self._judge.embed_images(images) * condition.text.tokens[:, 0]).sum(dim=1)


class ToyGuide:
    """The log-probability of noun and colour, and of the side where the object has a face."""

    name = "toy-classifier"

    def __init__(self, card: PriorCard, device: str) -> None:
        self.card, self.device, self.dtype = card, torch.device(device), torch.float32
        judge = ToyJudge("toy")
        self.shape = (3, judge.size, judge.size)
        self._network = judge.network.requires_grad_(False).to(device)

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """Indices of noun and colour, and whether the noun has a face: (n, 1, 3)."""
        rows = []
        for prompt in prompts:
            words = prompt.split(",")[0]  # the view words follow
            noun, color = read_pair(words) if words else (NOUN_NAMES[0], COLOR_NAMES[0])
            rows.append([NOUN_NAMES.index(noun), COLOR_NAMES.index(color), noun in FACED])
        return TextEmbedding(torch.tensor(rows, device=self.device).float()[:, None])

    def similarity(self, images: Tensor, condition: Condition) -> Tensor:
        """See `distillation.clip.estimator.ComparesImages`."""
        images = interpolate(images, self.shape[1:], mode="bilinear", antialias=True)
        logits = self._network(images)
        noun, color, faced = condition.text.tokens[:, 0].long().unbind(1)

        def log_share(name: str, which: Tensor) -> Tensor:
            return logits[name].log_softmax(1).gather(1, which[:, None])[:, 0]

        found = log_share("noun", noun) + log_share("color", color)
        if condition.cameras is not None:
            turns = condition.cameras.azimuth_deg.to(images.device) / 360.0
            side = (turns * AZIMUTHS).round().long() % AZIMUTHS
            found = found + faced * log_share("azimuth", side)
        return found
