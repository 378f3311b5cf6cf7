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
Words = tuple[str, ...]  # of a view prompt: azimuth, elevation, shading; the bank's have all three


class Oracle(Prior):
    """A prior whose clean images are the images of a bank, with equal probability.

    bank: images (n, c, h, w), encoded by `prior`, by the words of a view prompt. prior: provides
    the noise schedule, the card and the encoder. For z = alpha x + sigma e, the mean of x given z
    is sum_i softmax(-|z - alpha x_i|^2 / (2 sigma^2))_i x_i.

    group_size: x is a group of as many consecutive views, and the bank (n * group_size, c, h, w).
    """

    prediction: PredictionKind = "sample"
    name = "oracle"

    def __init__(self, prior: Prior, bank: Mapping[Words, Tensor], group_size: int = 1) -> None:
        self.group_size = group_size
        self.alphas, self.sigmas, self.card = prior.alphas, prior.sigmas, prior.card
        self.device, self.dtype, self.shape = prior.device, prior.dtype, prior.shape
        self._prior, self._bank = prior, bank
        self._joined: dict[Words, Tensor] = {}
        self._texts: list[str] = []

    def encode_image(self, images: Tensor, /) -> Tensor:
        return self._prior.encode_image(images)

    def encode_text(self, prompts: Sequence[str], /) -> TextEmbedding:
        """The indices of the texts, (n, 1, 1)."""
        first = len(self._texts)
        self._texts += prompts
        numbers = torch.arange(first, len(self._texts), dtype=torch.float32)
        return TextEmbedding(numbers[:, None, None])

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Condition, /) -> Tensor:
        """The posterior mean of x, (n, c, h, w)."""
        numbers = condition.text.tokens.flatten().round().long()[:: self.group_size]
        rows: dict[Words, list[int]] = defaultdict(list)
        for row, number in enumerate(numbers.tolist()):
            words = tuple(word.strip() for word in self._texts[number].split(",")[1:])
            rows[words].append(row)
        z = noisy.unflatten(0, (-1, self.group_size)).flatten(1)
        times = timesteps[:: self.group_size, None]
        alpha, sigma = self.alphas[times], self.sigmas[times]
        means = torch.empty_like(z)
        for words, which in rows.items():
            images = self._images(words).unflatten(0, (-1, self.group_size)).flatten(1)
            scaled = z[which] / alpha[which]
            distance = torch.cdist(scaled, images, compute_mode="donot_use_mm_for_euclid_dist")
            ratio = alpha[which] / sigma[which]
            weights = torch.softmax(-0.5 * (ratio * distance).square(), dim=1)
            means[which] = weights @ images
        return means.view_as(noisy)

    def _images(self, words: Words) -> Tensor:
        """The images of a text. One without words for the view or the shading matches all."""
        if words in self._bank:
            return self._bank[words]
        if words not in self._joined:
            known = [images for of, images in self._bank.items() if set(words) <= set(of)]
            self._joined[words] = torch.cat(known)
        return self._joined[words]


def bank_of(
    noun: str,
    prior: Prior,
    *,
    color: str | None = None,
    shapes: int,
    views: int,
    group_size: int = 1,
) -> dict[Words, Tensor]:
    """Images of `shapes` variants of a noun, each in every shading from `views` cameras, by the
    words of their view prompts, with the cameras and the light on the card of a pixel prior.

    color: None is the natural one. group_size: of the cameras, see `sample_cameras`; the images of
    a group have the light and the words of its first.
    """
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    found: dict[Words, list[Tensor]] = defaultdict(list)
    settings: Mapping[str, Any] = prior.card.settings
    ranges: dict[str, Any] = {name: tuple(v) for name, v in settings["camera"].items()}
    light = settings["shading"]
    for _ in range(shapes):
        obj = toy.make_object(noun, color, rng=rng)
        cameras = sample_cameras(views, **ranges, generator=generator, group_size=group_size)
        buffers = toy.view(obj, cameras, prior.shape[-1] * SUPERSAMPLE)
        palettes = torch.from_numpy(toy.PALETTE_TABLE).repeat(views, 1, 1)
        palettes[:, 0] = torch.tensor(BACKGROUND)
        for shading, word in toy.SHADING_WORDS.items():
            spread = light["light_spread"] * torch.randn(views, 3, generator=generator)
            towards = torch.nn.functional.normalize(cameras.positions, dim=-1) + spread
            towards = towards[::group_size].repeat_interleave(group_size, dim=0)
            images = toy.shade(
                torch.from_numpy(buffers.normals),
                torch.from_numpy(buffers.color_index),
                palettes=palettes,
                shadings=[shading] * views,
                light_directions=torch.nn.functional.normalize(towards, dim=-1),
                ambient=torch.full((views,), light["ambient"]),
            )
            images = toy.downsample(images, SUPERSAMPLE).movedim(-1, 1) * 2 - 1
            azimuths, elevations = (
                angles[::group_size].tolist()
                for angles in (cameras.azimuth_deg, cameras.elevation_deg)
            )
            groups = zip(images.split(group_size), azimuths, elevations, strict=True)
            for group, azimuth, elevation in groups:
                found[toy.azimuth_word(azimuth), toy.elevation_word(elevation), word].append(group)
    return {words: torch.cat(groups) for words, groups in found.items()}
