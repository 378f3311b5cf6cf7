#!/usr/bin/env python
"""SDS with a judge that knows: the exact posterior mean over the toy world's own pictures instead
of a network, and what its scenes are worth beside the toy world's objects.

    python -m scripts.oracle --out runs/oracle                  # all 52 nouns, a minute each
    python -m scripts.oracle --out runs/oracle --only corgi mug -- sds.t_min=0.02

What the oracle's scene lacks, the distillation loses; what it has and the embedded prior's scene
lacks, the prior has not learned. Everything but the judge is as in `dreamfusion train`, on the
background and at the guidance given below. Run again, it keeps finished runs.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import numpy as np
import torch
from torch import Tensor

from dreamfusion.config.layers import Layer, parse_assignments
from dreamfusion.diffusion.core import TextEmbedding
from dreamfusion.graphics.cameras import sample_cameras
from dreamfusion.mesh.extract import MeshError
from dreamfusion.priors import DiffusionPrior
from dreamfusion.runs.checkpoint import checkpoints
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.plan import plan_of_loaded
from dreamfusion.runs.train import train_run
from dreamfusion.toyworld import NOUNS, make_object, shade, view
from dreamfusion.toyworld.language import SHADING_WORDS, azimuth_word, elevation_word
from dreamfusion.toyworld.objects import PALETTE_TABLE
from dreamfusion.toyworld.render import downsample
from scripts.embedded_prior.data import CAMERA, LIGHT, SIZE, SUPERSAMPLE
from scripts.measure_quality import measure, prompt_of, write_sheet

# Light parts and dark ones stand out against it.
BACKGROUND = (0.35, 0.45, 0.6)
SHAPES, VIEWS = 100, 16  # of a noun: variants, and pictures of each in every shading
Words = tuple[str, ...]  # azimuth, elevation and shading of a view prompt


class Oracle:
    """A judge that knows the distribution: `bank` holds its pictures (n, 3, 64, 64) in [-1, 1] by
    what a view prompt says of the view. All else is as in `prior`.

    For z = alpha x + sigma e with x equally likely each picture of the bank, the mean of x given z
    is sum_i softmax(-|z - alpha x_i|^2 / (2 sigma^2))_i x_i.
    """

    prediction = "sample"

    def __init__(self, prior: DiffusionPrior, bank: Mapping[Words, Tensor]) -> None:
        self._prior, self._bank = prior, bank
        self._texts: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def encode_text(self, prompts: Sequence[str]) -> TextEmbedding:
        """The numbers of the texts, (n, 1, 1)."""
        first = len(self._texts)
        self._texts += prompts
        numbers = torch.arange(first, len(self._texts), dtype=torch.float32)
        return TextEmbedding(numbers[:, None, None])

    @torch.no_grad()
    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextEmbedding) -> Tensor:
        """The posterior mean of x, (n, 3, h, w)."""
        means = []
        numbers = text.tokens.flatten().round().long().tolist()
        for z, t, number in zip(noisy, timesteps.tolist(), numbers, strict=True):
            pictures = self._pictures(self._texts[number])
            alpha, sigma = float(self._prior.alphas[t]), float(self._prior.sigmas[t])
            distance = (z - alpha * pictures).square().flatten(1).sum(dim=1)
            weights = torch.softmax(-distance / (2 * sigma**2), dim=0)
            means.append(torch.einsum("n,nchw->chw", weights, pictures))
        return torch.stack(means)

    def _pictures(self, text: str) -> Tensor:
        """What a text can mean; an empty one, everything."""
        words = tuple(word.strip() for word in text.split(",")[1:])
        return self._bank[words] if words else torch.cat(list(self._bank.values()))


def bank_of(noun: str, *, shapes: int = SHAPES, views: int = VIEWS) -> dict[Words, Tensor]:
    """Pictures of many variants of a noun in its own colour, by their view prompts' words."""
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    found: dict[Words, list[Tensor]] = defaultdict(list)
    ranges: dict[str, Any] = {name: tuple(values) for name, values in CAMERA.items()}
    for _ in range(shapes):
        obj = make_object(noun, rng=rng)
        cameras = sample_cameras(views, **ranges, generator=generator)
        buffers = view(obj, cameras, SIZE * SUPERSAMPLE)
        palettes = torch.from_numpy(PALETTE_TABLE).repeat(views, 1, 1)
        palettes[:, 0] = torch.tensor(BACKGROUND)
        for shading, word in SHADING_WORDS.items():
            spread = LIGHT["direction_std"] * torch.randn(views, 3, generator=generator)
            towards = torch.nn.functional.normalize(cameras.positions, dim=-1) + spread
            pictures = shade(
                torch.from_numpy(buffers.normals),
                torch.from_numpy(buffers.color_index),
                palettes=palettes,
                shadings=[shading] * views,
                light_directions=torch.nn.functional.normalize(towards, dim=-1),
                ambient=torch.full((views,), LIGHT["ambient"]),
            )
            pictures = downsample(pictures, SUPERSAMPLE).movedim(-1, 1) * 2 - 1
            places = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), strict=True)
            for picture, (azimuth, elevation) in zip(pictures, places, strict=True):
                found[azimuth_word(azimuth), elevation_word(elevation), word].append(picture)
    return {words: torch.stack(pictures) for words, pictures in found.items()}


def train(noun: str, folder: Path, prior: DiffusionPrior, settings: Mapping[str, Any]) -> None:
    """A run in `folder` that is judged by the oracle of a noun."""
    layer: dict[str, Any] = {
        "prompt": prompt_of(noun, None),
        "sds": {"guidance": 1},  # a judge that knows needs none
        "background": {"kind": "fixed", "color": list(BACKGROUND)},
    }
    layers = [Layer("oracle", layer), Layer("settings", settings)]
    train_run(plan_of_loaded(prior, layers), folder, prior=prior)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/oracle"))
    parser.add_argument("--only", nargs="*", default=[noun.name for noun in NOUNS])
    parser.add_argument("settings", nargs="*", help="after --, KEY=VALUE as for --set")
    args = parser.parse_args()
    base = DiffusionPrior.from_pretrained("embedded")
    rows, entries = ["| noun | IoU | colour error |", "|---|---|---|"], []
    overlaps = []
    for noun in args.only:
        run = RunFolder(args.out / noun.replace(" ", "-"))
        picture = run.path / "views.png"
        try:
            if not (run.video.exists() and checkpoints(run.checkpoints)):
                oracle: Any = Oracle(base, bank_of(noun))
                train(noun, run.path, oracle, parse_assignments(args.settings))
            known = measure(run.path, make_object(noun), picture)
        except MeshError:  # a scene that came to nothing is a result, and the other nouns go on
            overlaps.append(0.0)
            rows.append(f"| {noun} | 0.00 (empty) | |")
            print(rows[-1], flush=True)
            continue
        overlaps.append(known["iou"])
        rows.append(f"| {noun} | {known['iou']:.2f} | {known['color_error']:.3f} |")
        print(rows[-1], flush=True)
        entries.append((noun, picture))
    rows.append(f"| **mean** | {np.mean(overlaps):.2f} | |")
    (args.out / "table.md").write_text("\n".join(rows) + "\n")
    if entries:
        write_sheet(entries, args.out / "sheet.png")


if __name__ == "__main__":
    main()
