"""A small image classifier of toy objects: an independent judge of what a picture shows.

It learns noun and main colour from pictures of the toy world, on its own views, shapes and lights,
and is never shipped. `scripts/measure_quality.py` trains it once (minutes) and keeps it in a
cache folder.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dreamfusion.toybox import COLORS, NOUNS, PALETTE
from scripts.embedded_prior.data import ToyPictures, random_palette, render_geometry

NOUN_NAMES = [noun.name for noun in NOUNS]
COLOR_NAMES = list(PALETTE)
WHITE, ANY = (1.0, 1.0), (0.0, 1.0)  # backgrounds
SEED = 20_001  # not the prior's: other shapes, other views


class ToyClassifier(nn.Module):
    """Logits of noun (n, nouns) and colour (n, colours) of pictures (n, 3, 64, 64) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after)]
            layers += [nn.SiLU(), nn.Conv2d(after, after, 3, padding=1, groups=8), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.noun = nn.Linear(4 * widths[-1], len(NOUN_NAMES))
        self.color = nn.Linear(4 * widths[-1], len(COLOR_NAMES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.features(pictures * 2 - 1)
        return self.noun(hidden), self.color(hidden)


def examples(
    toy: ToyPictures, rows: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 3, 64, 64), nouns (n,) and colours (n,): lit or not, soft or sharp, noisy."""
    n, g = len(rows), toy.geometry
    names = [
        NOUNS[g.noun[row]].color if rng.random() < 0.4 else COLORS[rng.integers(len(COLORS))]
        for row in rows
    ]
    pictures = toy.draw(
        rows,
        [random_palette(name, 0.04, WHITE if rng.random() < 0.5 else ANY, rng) for name in names],
        list(rng.choice(["albedo", "lambertian"], n, p=[0.4, 0.6])),
        g.towards_camera[rows] + rng.normal(0, 0.6, (n, 3)),
        rng.uniform(0.4, 0.8, n),
    )
    if rng.random() < 0.5:  # as soft as a radiance field
        pictures = nn.functional.avg_pool2d(pictures, 3, 1, padding=1, count_include_pad=False)
    noise = rng.normal(0, rng.uniform(0, 0.03), tuple(pictures.shape)).astype(np.float32)
    pictures = (pictures + torch.from_numpy(noise)).clamp(0, 1)
    nouns = torch.from_numpy(g.noun[rows].astype(np.int64))
    return pictures, nouns, torch.tensor([COLOR_NAMES.index(name) for name in names])


def train_classifier(cache: Path, *, steps: int = 1500, batch: int = 64) -> ToyClassifier:
    """The classifier, from the cache or trained now; prints its accuracy on unseen shapes."""
    file = cache / f"toy-classifier-{steps}.pt"
    model = ToyClassifier()
    if file.exists():
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        return model.eval()
    torch.manual_seed(0)
    toy = ToyPictures(render_geometry(80, SEED, cache), batch, SEED)
    # The last sixteen views of each noun are two shapes of their own: kept for the test.
    position = np.arange(len(toy.geometry.noun)) % 80
    seen, unseen = np.flatnonzero(position < 64), np.flatnonzero(position >= 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        rng = np.random.default_rng([SEED, step])
        pictures, nouns, colors = examples(toy, rng.choice(seen, batch), rng)
        for_noun, for_color = model(pictures)
        loss = nn.functional.cross_entropy(for_noun, nouns)
        loss = loss + nn.functional.cross_entropy(for_color, colors)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"classifier: step {step + 1}/{steps}, loss {loss.item():.3f}", flush=True)
    model.eval()
    with torch.no_grad():
        rng = np.random.default_rng([SEED, steps])
        pictures, nouns, colors = examples(toy, unseen, rng)
        for_noun, for_color = model(pictures)
        print(
            f"classifier on unseen shapes: noun {(for_noun.argmax(1) == nouns).float().mean():.3f},"
            f" colour {(for_color.argmax(1) == colors).float().mean():.3f}",
            flush=True,
        )
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), file)
    return model
