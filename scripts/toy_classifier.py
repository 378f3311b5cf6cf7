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
from torch import Tensor, nn

from dreamfusion.toybox import NOUNS, PALETTE
from dreamfusion.toybox.objects import COLOR_INDEX, PALETTE_TABLE
from scripts.train_embedded_prior import Geometry, random_background, render_geometry

SIZE = 64
NOUN_NAMES = [noun.name for noun in NOUNS]
COLOR_NAMES = list(PALETTE)
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
    geometry: Geometry, rows: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 3, 64, 64), nouns (n,) and colours (n,): lit or not, blurred and noisy."""
    pictures = np.empty((len(rows), SIZE, SIZE, 3), np.float32)
    colors = np.empty(len(rows), np.int64)
    for i, row in enumerate(rows):
        noun = NOUNS[geometry.noun[row]]
        name = noun.color if rng.random() < 0.4 else COLOR_NAMES[rng.integers(12)]
        colors[i] = COLOR_NAMES.index(name)
        palette = PALETTE_TABLE.copy()
        palette[COLOR_INDEX["main"]] = palette[COLOR_INDEX[name]]
        palette = np.clip(palette + rng.normal(0, 0.04, palette.shape), 0, 1).astype(np.float32)
        palette[0] = random_background(rng)
        index = geometry.color_index[row]
        picture = palette[index]
        if rng.random() < 0.6:
            light = geometry.towards_camera[row] + rng.normal(0, 0.6, 3)
            light = (light / np.linalg.norm(light) / 127).astype(np.float32)
            ambient = rng.uniform(0.4, 0.8)
            shade = ambient + (1 - ambient) * np.maximum(
                geometry.normals[row].astype(np.float32) @ light, 0
            )
            picture = np.where(index[..., None] > 0, picture * shade[..., None], picture)
        pictures[i] = picture.reshape(SIZE, 2, SIZE, 2, 3).mean(axis=(1, 3))
    batch = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    if rng.random() < 0.5:  # as soft as a radiance field
        batch = nn.functional.avg_pool2d(batch, 3, stride=1, padding=1, count_include_pad=False)
    noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.03), batch.shape).astype(np.float32))
    batch = (batch + noise).clamp(0, 1)
    nouns = torch.from_numpy(geometry.noun[rows].astype(np.int64))
    return batch, nouns, torch.from_numpy(colors)


def train_classifier(cache: Path, *, steps: int = 1500, batch: int = 64) -> ToyClassifier:
    """The classifier, from the cache or trained now; prints its accuracy on unseen shapes."""
    file = cache / f"toy-classifier-{steps}.pt"
    model = ToyClassifier()
    if file.exists():
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()
    torch.manual_seed(0)
    geometry = render_geometry(80, SEED, cache)
    # The last sixteen views of each noun are two shapes of their own: kept for the test.
    position = np.arange(len(geometry.noun)) % 80
    seen, unseen = np.flatnonzero(position < 64), np.flatnonzero(position >= 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        rng = np.random.default_rng([SEED, step])
        pictures, nouns, colors = examples(geometry, rng.choice(seen, batch), rng)
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
        pictures, nouns, colors = examples(geometry, unseen, rng)
        for_noun, for_color = model(pictures)
        print(
            f"classifier on unseen shapes: noun {(for_noun.argmax(1) == nouns).float().mean():.3f},"
            f" colour {(for_color.argmax(1) == colors).float().mean():.3f}",
            flush=True,
        )
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), file)
    return model
