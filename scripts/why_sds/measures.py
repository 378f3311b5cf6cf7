"""The prior, the prompts of the experiments, and measures of their images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations

import torch
from torch import Tensor

import dreamfusion as df
from dreamfusion.evaluation.image_task import on_background_of, side_cameras, true_variants
from dreamfusion.evaluation.judges import NOUN_NAMES, ToyJudge, read_pair
from scripts.why_sds.generators import SIZE

SIDE = 1  # of the eight sides of `side_cameras`: 45 degrees, half front and half left


judge = lru_cache(ToyJudge)


@dataclass(frozen=True)
class Subjects:
    """The nouns of n images, all seen from one side, with true images to compare with."""

    nouns: tuple[str, ...]

    @classmethod
    def of(cls, nouns: str, seeds: int) -> Subjects:
        """`seeds` images of each noun of a list with commas."""
        return cls(tuple(noun for noun in nouns.split(",") for _ in range(seeds)))

    @property
    def cameras(self) -> df.Cameras:
        """The camera of each image."""
        one = side_cameras()[SIDE : SIDE + 1]
        return df.Cameras.cat([one] * len(self.nouns))

    def conditions(self, prior: df.Prior) -> df.Conditions:
        """The conditions of each image: the noun with the words of the view, and no text."""
        cameras, words = self.cameras, prior.card.vocabulary
        azimuth, elevation = float(cameras.azimuth_deg[0]), float(cameras.elevation_deg[0])
        texts = [words.view_prompt(noun, azimuth, elevation) for noun in self.nouns]
        empty = prior.encode_text([""]).expand(len(texts))
        return df.Conditions(
            df.Condition(prior.encode_text(texts), cameras), df.Condition(empty, cameras)
        )

    @cached_property
    def true(self) -> Tensor:
        """True images of each noun, (n, 8, SIZE, SIZE, 4), with premultiplied colours."""
        return torch.stack([true_variants(*read_pair(noun), SIZE)[SIDE] for noun in self.nouns])

    def measure(self, images: Tensor) -> dict[str, float]:
        """Measures of images (n, 3, SIZE, SIZE), means over all of them.

        noun: share in which the classifier recognises the noun. psnr: to the nearest true image on
        the image's own background, dB. saturation: difference between the greatest and the
        smallest channel, where all true images show the object. extreme: share of the colours
        that are 0 or 1. diversity: see `diversity`, if a noun has several images.
        """
        shown = images.movedim(1, -1)
        error = (on_background_of(shown, self.true) - shown[:, None]).square()
        psnr = -10 * torch.log10(error.flatten(2).mean(dim=2).amin(dim=1).clamp(min=1e-6))
        found = judge("toy").logits(shown)["noun"].argmax(dim=1)
        asked = torch.tensor([NOUN_NAMES.index(noun) for noun in self.nouns])
        measured = {
            "noun": float((found == asked).float().mean()),
            "psnr": float(psnr.mean()),
            "saturation": float(self._chroma(shown[:, None]).mean()),
            "extreme": float(((images < 0.02) | (images > 0.98)).float().mean()),
        }
        if len(set(self.nouns)) < len(self.nouns):
            measured["diversity"] = self.diversity(images)
        return measured

    def examples(self) -> Tensor:
        """A true image for each image, of different shapes, on random plain backgrounds:
        (n, 3, SIZE, SIZE)."""
        which = [self.nouns[:i].count(noun) % 8 for i, noun in enumerate(self.nouns)]
        true = self.true[range(len(which)), which].movedim(-1, 1)
        random = torch.Generator().manual_seed(0)
        background = 0.1 + 0.8 * torch.rand(len(true), 3, 1, 1, generator=random)
        return true[:, :3] + (1 - true[:, 3:]) * background

    def _chroma(self, images: Tensor) -> Tensor:
        """Greatest minus smallest channel of images (n, m, SIZE, SIZE, 3), mean over the pixels in
        which all true images of the noun show the object: (n, m)."""
        inside = (self.true[..., 3] > 0.99).all(dim=1, keepdim=True).float()
        chroma = images.amax(dim=-1) - images.amin(dim=-1)
        return (chroma * inside).flatten(2).sum(dim=2) / inside.flatten(2).sum(dim=2)

    def diversity(self, images: Tensor) -> float:
        """RMS difference between two images of a noun, mean over pairs, of images at a quarter of
        their size, so that the noise of single pixels does not count."""
        small = torch.nn.functional.avg_pool2d(images, 4)
        pairs = [
            float((small[a] - small[b]).square().mean().sqrt())
            for a, b in combinations(range(len(images)), 2)
            if self.nouns[a] == self.nouns[b]
        ]
        return sum(pairs) / len(pairs)


def unfinished() -> tuple[Tensor, Tensor]:
    """A true image of a corgi on a grey background, and the same image blurred, both
    (1, 3, SIZE, SIZE)."""
    true = Subjects(("corgi",)).true[0, :1].movedim(-1, 1)
    true = true[:, :3] + (1 - true[:, 3:]) * 0.6
    padded = torch.nn.functional.pad(true, (4, 4, 4, 4), mode="replicate")
    return true, torch.nn.functional.avg_pool2d(padded, 9, stride=1)
