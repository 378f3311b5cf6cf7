#!/usr/bin/env python
"""Train the shipped judges: small classifiers of images of the toy world.

    python -m scripts.train_toy_judge a        # one core, about ten minutes
    python -m scripts.train_toy_judge b
    python -m scripts.train_toy_judge card     # measure both, write their card

There are two judges of the same architecture, trained on different shapes and views, so that one
can choose the best of several seeds and the other evaluate the choice. Both are independent of the
prior: their shapes, views, lights and colours come from other random seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from dreamfusion.evaluation.judges import (
    AZIMUTHS,
    COLOR_NAMES,
    FACED,
    NOUN_NAMES,
    SIZE,
    TOY_JUDGES,
    Look,
    ToyNetwork,
    load_judge,
)
from dreamfusion.evaluation.rows import judge_images
from dreamfusion.graphics.cameras import turntable_cameras
from dreamfusion.toyworld.objects import (
    COLOR_INDEX,
    COLORS,
    NOUNS,
    PALETTE_TABLE,
    GeometryBuffers,
    ToyObject,
    downsample,
    make_object,
    shade,
    view,
)
from dreamfusion.utils.files import atomic_write
from scripts.embedded_prior.data import ToyPictures, random_palette, render_geometry

WHITE, ANY = (1.0, 1.0), (0.0, 1.0)  # backgrounds
SEEDS = {"a": 30_001, "b": 20_001}  # differ from the prior's: other shapes, other views
SHAPES, VIEWS_PER_SHAPE = 20, 8  # of each noun; the last two shapes are reserved for the test
CLAY_SHARE = 0.35
# Lighting of the images in `dreamfusion evaluate`: the toy world's shading, and its ambient share.
SHADINGS: dict[Look, tuple[str, float]] = {
    "color": ("albedo", 1.0), "shaded": ("lambertian", 0.7), "geometry": ("textureless", 0.3),
}  # fmt: skip

CARD_ROWS = {
    "r1_color": "R@1 per view, colour, among 624 pairs",
    "r1_shaded": "R@1 per view, shaded, among 624 pairs",
    "r1_geometry": "R@1 per view, uncoloured, among 52 nouns",
    "one_front": "one front counted, objects with one front",
    "two_fronts": "several fronts counted, two-faced objects",
}
CARD = """# The toy judges

Two small classifiers of images of the toy world, `toy` (`a.safetensors`) and `toy-b`
(`b.safetensors`), which `dreamfusion evaluate` and `--keep best` use offline. Each has half a
million parameters, in half precision. Input: 64 x 64 pixels. Output: noun, main colour, noun of an
uncoloured (clay) image, and one of eight azimuths.

The judges are independent of the prior that generates the objects: each was trained from scratch
by `scripts/train_toy_judge.py`, on separate shapes, views, colours and lights (140,800 images,
about eight minutes on one CPU core). No third-party images or models were used.

A score is the log-probability of noun and colour; for uncoloured images, of the noun alone. Fronts
are counted only for nouns whose front differs from their back, and whose front `toy` recognises:
{faced}.

## Accuracy on true images

Objects of the toy world with mean proportions, in all twelve colours, eight views each at 30
degrees of elevation, on white, lit as in the evaluation; fronts of the nouns that have one. A
two-faced object is an object combined with its mirror image.

{table}

`card.json` contains the same numbers.

## Limits

The judges know 52 nouns and 15 colours, and classify every image as one of these. Accuracy on
shapes with proportions outside the training set, at all elevations, with noise:

{unseen}
"""


def examples(
    toy: ToyPictures, rows: NDArray[np.int64], rng: np.random.Generator
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Images (n, 3, 64, 64), labels (n,) for each head of the network, and which are clay (n,):
    lit or not, on white or any colour, soft or sharp, mirrored or not, shifted and noisy."""
    n, g = len(rows), toy.geometry
    names = [
        NOUNS[g.noun[row]].color if rng.random() < 0.3 else COLORS[rng.integers(len(COLORS))]
        for row in rows
    ]
    clay = rng.random(n) < CLAY_SHARE
    lit = np.where(rng.random(n) < 0.5, "albedo", "lambertian")
    pictures = toy.draw(
        rows,
        [random_palette(name, 0.04, WHITE if rng.random() < 0.5 else ANY, rng) for name in names],
        list(np.where(clay, "textureless", lit)),
        g.towards_camera[rows] + rng.normal(0, 0.6, (n, 3)),
        rng.uniform(0.25, 0.8, n),
    )
    mirrored = rng.random() < 0.5
    if mirrored:
        pictures = pictures.flip(-1)
    if rng.random() < 0.5:  # as blurred as a radiance field
        pictures = nn.functional.avg_pool2d(pictures, 3, 1, padding=1, count_include_pad=False)
    pictures = _moved(pictures, rng)
    noise = rng.normal(0, rng.uniform(0, 0.03), tuple(pictures.shape)).astype(np.float32)
    pictures = (pictures + torch.from_numpy(noise)).clamp(0, 1)
    azimuth = np.round(g.azimuth_deg[rows] / (360 / AZIMUTHS)).astype(np.int64)
    nouns = torch.from_numpy(g.noun[rows].astype(np.int64))
    shown = {
        "noun": nouns,
        "clay": nouns,
        "color": torch.tensor([COLOR_NAMES.index(name) for name in names]),
        "azimuth": torch.from_numpy((-azimuth if mirrored else azimuth) % AZIMUTHS),
    }
    return pictures, shown, torch.from_numpy(clay)


def _moved(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Randomly scale and shift each image slightly, with border padding."""
    n = len(pictures)
    move = torch.zeros(n, 2, 3)
    move[:, 0, 0] = move[:, 1, 1] = torch.from_numpy(rng.uniform(0.9, 1.2, n)).float()
    move[:, :, 2] = torch.from_numpy(rng.uniform(-0.08, 0.08, (n, 2))).float()
    grid = nn.functional.affine_grid(move, list(pictures.shape), align_corners=False)
    return nn.functional.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def loss_of(logits: dict[str, Tensor], shown: dict[str, Tensor], clay: Tensor) -> Tensor:
    """The sum of the cross-entropies of all heads, each over the images with its label."""
    colored = ~clay

    def entropy(head: str, which: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            logits[head][which], shown[head][which], label_smoothing=0.05
        )

    loss = entropy("noun", colored) + 0.5 * entropy("color", colored) + entropy("clay", clay)
    return loss + 0.5 * nn.functional.cross_entropy(logits["azimuth"], shown["azimuth"])


def train(name: str, *, steps: int, batch: int, cache: Path) -> tuple[ToyNetwork, dict[str, float]]:
    """Train a judge from scratch; returns it and its accuracy on unseen shapes."""
    seed = SEEDS[name]
    torch.manual_seed(seed)
    views = SHAPES * VIEWS_PER_SHAPE
    toy = ToyPictures(render_geometry(views, seed, cache), batch, seed)
    model = ToyNetwork()
    position = np.arange(len(toy.geometry.noun)) % views
    seen = np.flatnonzero(position < views - 2 * VIEWS_PER_SHAPE)
    unseen = np.flatnonzero(position >= views - 2 * VIEWS_PER_SHAPE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    started = time.monotonic()
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        pictures, shown, clay = examples(toy, rng.choice(seen, batch), rng)
        loss = loss_of(model(pictures), shown, clay)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{steps}, loss {loss.item():.3f}, {seconds:.0f} s", flush=True)
    model.eval()
    with torch.no_grad():
        rng = np.random.default_rng([seed, steps])
        pictures, shown, clay = examples(toy, unseen, rng)
        logits = model(pictures)
    accuracy: dict[str, float] = {}
    for head in ("noun", "clay", "color"):
        which = clay if head == "clay" else ~clay
        right = (logits[head].argmax(1) == shown[head])[which]
        accuracy[head] = round(float(right.float().mean()), 3)
    return model, accuracy


def true_pictures(obj: ToyObject, colors: Sequence[str]) -> dict[Look, Tensor]:
    """Eight views (colours, 8, 64, 64, 3) of an object with the colour "main", in each colour, on
    white, with the cameras of `dreamfusion evaluate`: at 30 degrees of elevation, front first."""
    cameras = turntable_cameras(8, elevation_deg=30.0, distance=2.75, fov_y_deg=40.0)
    buffers = view(obj, cameras, SIZE * 2)
    toward = torch.tensor(
        [-0.7, 1.0, 2.75]
    )  # as in evaluations: from the left and above the camera
    light = torch.einsum("nij,j->ni", cameras.T_world_camera[:, :3, :3], toward)
    shown: dict[Look, list[Tensor]] = {look: [] for look in SHADINGS}
    for color in colors:
        palette = torch.from_numpy(PALETTE_TABLE.copy())
        palette[0], palette[COLOR_INDEX["main"]] = 1.0, palette[COLOR_INDEX[color]]
        for look, (shading, ambient) in SHADINGS.items():
            pictures = shade(
                torch.from_numpy(buffers.normals),
                torch.from_numpy(buffers.color_index),
                palettes=palette.repeat(8, 1, 1),
                shadings=[shading] * 8,
                light_directions=nn.functional.normalize(light, dim=-1),
                ambient=torch.full((8,), ambient),
            )
            shown[look].append(downsample(pictures, 2))
    return {look: torch.stack(found) for look, found in shown.items()}


class TwoFaced(ToyObject):
    """The union of an object and its mirror image, which has a front on both sides."""

    def trace(
        self, origins: NDArray[np.float32], directions: NDArray[np.float32]
    ) -> GeometryBuffers:
        """The first intersection with either of the two."""
        flip = np.array([1, 1, -1], dtype=np.float32)
        one = super().trace(origins, directions)
        other = super().trace(origins * flip, directions * flip)
        first = one.depth <= other.depth
        return GeometryBuffers(
            np.where(first, one.depth, other.depth),
            np.where(first[..., None], one.normals, other.normals * flip),
            np.where(first, one.color_index, other.color_index),
        )


def two_faced(noun: str) -> ToyObject:
    """The canonical object of a noun with a second front and the colour "main"."""
    return TwoFaced(**vars(make_object(noun, "main")))


def measure(name: str, nouns: Sequence[str], colors: Sequence[str]) -> dict[str, float]:
    """The accuracy of a shipped judge on true images: R@1 of each look over all pairs of these
    nouns and colours; for nouns in FACED, the share with one counted front, and for two-faced
    objects the share with several."""
    judge = load_judge(name)
    found: dict[str, list[float]] = defaultdict(list)
    for noun in nouns:
        looks = true_pictures(make_object(noun, "main"), colors)
        for i, color in enumerate(colors):
            pictures = {look: views[i] for look, views in looks.items()}
            row = judge_images(judge, f"{color} {noun}", pictures, judge.distractors())
            for look in looks:
                found[f"r1_{look}"].append(row[f"r1_{look}"])
            if noun in FACED:
                found["one_front"].append(row["fronts"] == 1)
        if noun in FACED:
            shaded = true_pictures(two_faced(noun), colors)["shaded"]
            counts = [judge.fronts(noun, views) or 0 for views in shaded]
            found["two_fronts"] += [count > 1 for count in counts]
    return {key: float(np.mean(values)) for key, values in found.items()}


def write_card(out: Path) -> None:
    """Evaluate both judges on canonical objects in all colours, and write the results."""
    figures = {name: measure(name, NOUN_NAMES, COLORS) for name in TOY_JUDGES}
    with atomic_write(out / "card.json") as file:
        file.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    write_readme(out, figures)


def write_readme(out: Path, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Write README.md, the model card."""
    rows = [
        f"| {title} | " + " | ".join(f"{figures[name][key]:.1%}" for name in TOY_JUDGES) + " |"
        for key, title in CARD_ROWS.items()
    ]
    unseen = {name: json.loads((out / f"{file}.json").read_text())
              for name, file in TOY_JUDGES.items()}  # fmt: skip
    heads = [
        f"| {head} | " + " | ".join(f"{unseen[name][head]:.1%}" for name in TOY_JUDGES) + " |"
        for head in unseen["toy"]
    ]
    top = ["| | toy | toy-b |", "|---|---|---|"]
    text = CARD.format(
        faced=", ".join(FACED), table="\n".join(top + rows), unseen="\n".join(top + heads)
    )
    with atomic_write(out / "README.md") as file:
        file.write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=[*SEEDS, "card"])
    parser.add_argument("--out", type=Path, default=Path("assets/toy-judge"))
    parser.add_argument("--cache", type=Path, default=Path(".cache"))
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    if args.what == "card":
        write_card(args.out)
        return
    model, unseen = train(args.what, steps=args.steps, batch=args.batch, cache=args.cache)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    with atomic_write(args.out / f"{args.what}.safetensors") as file:
        save_file(weights, file)
    with atomic_write(args.out / f"{args.what}.json") as file:
        file.write_text(json.dumps(unseen) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
