"""An exact prior: the posterior mean over images of the toy world, without a network.

To separate errors of the prior from errors of the distillation, compare scenes distilled from it
with scenes distilled from the embedded prior: only the latter contain errors of a prior.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamfusion.diffusion.condition import Condition, TextEmbedding
from dreamfusion.diffusion.predictions import PredictionKind
from dreamfusion.graphics.cameras import sample_cameras
from dreamfusion.priors.base import Prior
from dreamfusion.toyworld import objects as toy

# Both light and dark parts contrast with it.
BACKGROUND = (0.35, 0.45, 0.6)
SUPERSAMPLE = 2
Words = tuple[str, ...]  # azimuth, elevation and shading of a view prompt


class Oracle(Prior):
    """A prior whose clean images are the images of a bank, with equal probability.

    bank: images (n, c, h, w), encoded by `prior`, by the words of a view prompt. prior: provides
    the noise schedule, the card and the encoder. For z = alpha x + sigma e, the mean of x given z
    is sum_i softmax(-|z - alpha x_i|^2 / (2 sigma^2))_i x_i.
    """

    prediction: PredictionKind = "sample"
    name = "oracle"

    def __init__(self, prior: Prior, bank: Mapping[Words, Tensor]) -> None:
        self.alphas, self.sigmas, self.card = prior.alphas, prior.sigmas, prior.card
        self.device, self.dtype, self.shape = prior.device, prior.dtype, prior.shape
        self._prior, self._bank = prior, bank
        self._texts: list[str] = []

    def encode_image(self, images: Tensor, /) -> Tensor:
        """Encode by the underlying prior."""
        return self._prior.encode_image(images)

    def encode_text(self, prompts: Sequence[str], /) -> TextEmbedding:
        """The indices of the texts, (n, 1, 1)."""
        first = len(self._texts)
        self._texts += prompts
        numbers = torch.arange(first, len(self._texts), dtype=torch.float32)
        return TextEmbedding(numbers[:, None, None])

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Condition, /) -> Tensor:
        """The posterior mean of x, (n, c, h, w)."""
        means = []
        numbers = condition.text.tokens.flatten().round().long().tolist()
        for z, t, number in zip(noisy, timesteps.tolist(), numbers, strict=True):
            words = tuple(word.strip() for word in self._texts[number].split(",")[1:])
            # An empty text matches all images.
            images = self._bank[words] if words else torch.cat(list(self._bank.values()))
            alpha, sigma = float(self.alphas[t]), float(self.sigmas[t])
            distance = (z - alpha * images).square().flatten(1).sum(dim=1)
            weights = torch.softmax(-distance / (2 * sigma**2), dim=0)
            means.append(torch.einsum("n,nchw->chw", weights, images))
        return torch.stack(means)


def bank_of(
    noun: str, prior: Prior, *, color: str | None = None, shapes: int, views: int
) -> dict[Words, Tensor]:
    """Images of `shapes` variants of a noun, each in every shading from `views` cameras, by the
    words of their view prompts, with the cameras and the light on the card of a pixel prior.

    color: None is the natural one.
    """
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    found: dict[Words, list[Tensor]] = defaultdict(list)
    settings: Mapping[str, Any] = prior.card.settings
    ranges: dict[str, Any] = {name: tuple(v) for name, v in settings["camera"].items()}
    light = settings["shading"]
    for _ in range(shapes):
        obj = toy.make_object(noun, color, rng=rng)
        cameras = sample_cameras(views, **ranges, generator=generator)
        buffers = toy.view(obj, cameras, prior.shape[-1] * SUPERSAMPLE)
        palettes = torch.from_numpy(toy.PALETTE_TABLE).repeat(views, 1, 1)
        palettes[:, 0] = torch.tensor(BACKGROUND)
        for shading, word in toy.SHADING_WORDS.items():
            spread = light["light_spread"] * torch.randn(views, 3, generator=generator)
            towards = torch.nn.functional.normalize(cameras.positions, dim=-1) + spread
            images = toy.shade(
                torch.from_numpy(buffers.normals),
                torch.from_numpy(buffers.color_index),
                palettes=palettes,
                shadings=[shading] * views,
                light_directions=torch.nn.functional.normalize(towards, dim=-1),
                ambient=torch.full((views,), light["ambient"]),
            )
            images = toy.downsample(images, SUPERSAMPLE).movedim(-1, 1) * 2 - 1
            places = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), strict=True)
            for image, (azimuth, elevation) in zip(images, places, strict=True):
                found[toy.azimuth_word(azimuth), toy.elevation_word(elevation), word].append(image)
    return {words: torch.stack(images) for words, images in found.items()}
