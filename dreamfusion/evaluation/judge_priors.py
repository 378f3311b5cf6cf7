"""The judges as priors for the estimator `clip`. Their settings are in `guides`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dreamfusion.diffusion.condition import Condition, TextEmbedding
from dreamfusion.evaluation.judges import CLIPS, FACED, ClipJudge, ToyJudge, read_pair
from dreamfusion.evaluation.toy_network import AZIMUTHS, COLOR_NAMES, NOUN_NAMES
from dreamfusion.priors import PriorCard


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
