#!/usr/bin/env python
"""What the embedded prior draws, and what its scenes look like, noun by noun, named by a judge that
learned from neither: does the judge draw a mug from above, and does the scene have what it draws?

    python -m scripts.validate --out runs/validation                  # the prior's own pictures
    python -m scripts.validate --out runs/validation --shelf shelf    # and the scenes of a batch

All 52 nouns in their own colours, without light, from eight azimuths and three elevations. Of each
picture: whether noun, main colour and side are named rightly by the toy judge, and its PSNR to the
nearest of the toy world's own pictures of that noun and view (of many variants, before the
picture's own background). Sides are counted where the judge tells them apart on true pictures. Run
again, it keeps what the same prior drew. With a batch, also a sheet of what was made beside the toy
world's own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dreamfusion.batch.jobs import find_shelf
from dreamfusion.evaluation.judges import ToyJudge
from dreamfusion.evaluation.toy_network import COLOR_NAMES, NOUN_NAMES
from dreamfusion.graphics.cameras import Cameras, orbit_cameras
from dreamfusion.graphics.shading import over
from dreamfusion.priors import DiffusionPrior
from dreamfusion.priors.sampling import sample_images
from dreamfusion.runs.checkpoint import load_state
from dreamfusion.runs.folder import find_run
from dreamfusion.runs.preview import draw_scene
from dreamfusion.toyworld import NOUNS, make_object, view
from dreamfusion.toyworld.language import SHADING_WORDS, TEMPLATE, azimuth_word, elevation_word
from dreamfusion.toyworld.objects import PALETTE_TABLE
from dreamfusion.toyworld.render import downsample
from scripts.embedded_prior.data import SIZE, SUPERSAMPLE
from scripts.oracle import BACKGROUND

AZIMUTHS, ELEVATIONS = 8, (10.0, 30.0, 50.0)
VIEWS = AZIMUTHS * len(ELEVATIONS)
VARIANTS = 8  # of each noun, from each view
SURE = 0.9  # how often the judge must be right about a noun's sides on true pictures
STEPS, GUIDANCE = 16, 3.0


@dataclass(frozen=True)
class Named:
    """Of one noun's VIEWS pictures, elevation by elevation: which were named rightly, (VIEWS,)
    each, and their PSNR to the nearest true picture in dB, (VIEWS,)."""

    noun: Tensor
    color: Tensor
    side: Tensor
    psnr: Tensor


def cameras_of(spread: np.random.Generator | None = None) -> Cameras:
    """The VIEWS cameras; with `spread`, each anywhere within what its words say."""
    azimuth = np.tile(np.arange(AZIMUTHS) * (360.0 / AZIMUTHS), len(ELEVATIONS))
    elevation = np.repeat(ELEVATIONS, AZIMUTHS)
    distance = np.full(VIEWS, 2.75)
    if spread is not None:
        azimuth = azimuth + spread.uniform(-11, 11, VIEWS)
        elevation = elevation + spread.uniform(-9, 9, VIEWS)
        distance = spread.uniform(2.65, 2.85, VIEWS)
    a, e, d = (torch.from_numpy(x).float() for x in (azimuth, elevation, distance))
    return orbit_cameras(a, e, d, torch.full((VIEWS,), 40.0))


def true_pictures(noun: str, rng: np.random.Generator | None) -> Tensor:
    """The toy world's own RGBA pictures (VIEWS, SIZE, SIZE, 4), colours times opacity; the object
    in the middle of its proportions without `rng`."""
    buffers = view(make_object(noun, rng=rng), cameras_of(rng), SIZE * SUPERSAMPLE)
    index = torch.from_numpy(buffers.color_index).long()
    colors = torch.from_numpy(PALETTE_TABLE)[index]
    return downsample(torch.cat([colors, (index > 0)[..., None].float()], dim=-1), SUPERSAMPLE)


def nearest_psnr(pictures: Tensor, true: Tensor) -> Tensor:
    """PSNR in dB (n,) of pictures (n, s, s, 3) to the nearest of their true ones (n, m, s, s, 4),
    put before each picture's background: what its border mostly is."""
    border = torch.cat([pictures[:, 0], pictures[:, -1], pictures[:, :, 0], pictures[:, :, -1]], 1)
    background = border.median(dim=1).values[:, None, None, None]
    shown = true[..., :3] + (1 - true[..., 3:]) * background
    error = (shown - pictures[:, None]).square().flatten(2).mean(dim=2).amin(dim=1)
    return -10 * torch.log10(error.clamp(min=1e-6))


def named(judge: ToyJudge, noun: str, pictures: Tensor, true: Tensor) -> Named:
    """What the judge and the nearest true pictures say of a noun's pictures (VIEWS, s, s, 3)."""
    said = {head: logits.argmax(dim=1) for head, logits in judge.logits(pictures).items()}
    color = next(kind.color for kind in NOUNS if kind.name == noun)
    side = torch.arange(AZIMUTHS).repeat(len(ELEVATIONS))
    return Named(
        said["noun"] == NOUN_NAMES.index(noun),
        said["color"] == COLOR_NAMES.index(color),
        said["azimuth"] == side,
        nearest_psnr(pictures, true),
    )


def samples_of(prior: DiffusionPrior, noun: str) -> Tensor:
    """What the prior draws for a noun from all views: (VIEWS, SIZE, SIZE, 3)."""
    cameras = cameras_of()
    places = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist(), strict=True)
    texts = [
        TEMPLATE.format(
            prompt=noun,
            azimuth=azimuth_word(azimuth),
            elevation=elevation_word(elevation),
            shading=SHADING_WORDS["albedo"],
        )
        for azimuth, elevation in places
    ]
    pictures = sample_images(
        prior,
        prior.encode_text(texts),
        prior.encode_text([""]),
        guidance=GUIDANCE,
        steps=STEPS,
        generator=torch.Generator().manual_seed(NOUN_NAMES.index(noun)),
    )
    return pictures.movedim(1, -1)


def scene_pictures(run_dir: Path) -> Tensor:
    """A finished run's scene from all views, before BACKGROUND: (VIEWS, SIZE, SIZE, 3)."""
    run = find_run(run_dir)
    config = run.read_config()
    draw = draw_scene(load_state(run, config, "cpu").shown, config.render)
    rgba = draw(cameras_of(), SIZE * SUPERSAMPLE, "albedo")
    return downsample(over(rgba, torch.tensor(BACKGROUND)), SUPERSAMPLE)


def summary(found: dict[str, Named], sided: list[str]) -> dict[str, Any]:
    """Means over nouns: shares in [0, 1], PSNR in dB; `sided`: whose sides count."""

    def mean(what: str, nouns: list[str], views: slice) -> float:
        return float(np.mean([getattr(found[n], what)[views].float().mean() for n in nouns]))

    nouns, whole = list(found), slice(None)
    counted = [noun for noun in sided if noun in found]
    out: dict[str, Any] = {"nouns": len(nouns)}
    for what in ("noun", "color", "psnr"):
        out[what] = mean(what, nouns, whole)
    out["side"] = mean("side", counted, whole) if counted else None
    for i, elevation in enumerate(ELEVATIONS):
        views = slice(i * AZIMUTHS, (i + 1) * AZIMUTHS)
        out[f"noun at {elevation:.0f} deg"] = mean("noun", nouns, views)
        out[f"psnr at {elevation:.0f} deg"] = mean("psnr", nouns, views)
    return out


def table(columns: dict[str, dict[str, Named]], sided: list[str]) -> str:
    """Markdown: a row for each noun, the worst first by the last column's PSNR, and means."""
    heads = ["| noun |", "|---|"]
    for name in columns:
        heads[0] += f" {name}: noun | colour | side | PSNR, dB |"
        heads[1] += "---|---|---|---|"
    last = list(columns.values())[-1]

    def cells(found: Named | None, side: bool) -> str:
        if found is None:
            return " | | | |"
        share = [f"{float(x.float().mean()):.0%}" for x in (found.noun, found.color, found.side)]
        share[2] = share[2] if side else "-"
        return f" {' | '.join(share)} | {float(found.psnr.mean()):.1f} |"

    lines = heads
    for noun in sorted(last, key=lambda n: float(last[n].psnr.mean())):
        row = "".join(cells(found.get(noun), noun in sided) for found in columns.values())
        lines.append(f"| {noun} |{row}")
    means = ""
    for found in columns.values():
        one = summary(found, sided)
        side = "-" if one["side"] is None else f"{one['side']:.1%}"
        means += f" {one['noun']:.1%} | {one['color']:.1%} | {side} | {one['psnr']:.1f} |"
    return "\n".join([*lines, f"| **mean** |{means}"]) + "\n"


def sheet(pictures: dict[str, Tensor], file: Path) -> None:
    """All views of all nouns, a row each."""
    rows = [torch.cat(list(views), dim=1) for views in pictures.values()]
    Image.fromarray((torch.cat(rows) * 255).round().byte().numpy()).save(file)


def side_by_side(scenes: dict[str, Tensor], true: dict[str, Tensor], file: Path) -> None:
    """Of each noun two views of what was made, then the toy world's own, four nouns a row."""
    cells = []
    for noun, views in scenes.items():
        chosen = [AZIMUTHS + 1, 2 * AZIMUTHS - 2]  # at 30 degrees: from the left, from the right
        strip = torch.cat([*views[chosen], *true[noun][chosen]], dim=1)
        picture = Image.fromarray((strip * 255).round().byte().numpy())
        cell = Image.new("RGB", (picture.width + 6, picture.height + 14), "white")
        cell.paste(picture, (0, 14))
        ImageDraw.Draw(cell).text((2, 1), noun, fill="black")
        cells.append(np.asarray(cell))
    blank = [np.full_like(cells[0], 255)] * (-len(cells) % 4)
    rows = [np.concatenate(list(row), axis=1) for row in batched([*cells, *blank], 4)]
    Image.fromarray(np.concatenate(rows)).save(file, quality=85)


def batched(items: list[Any], n: int) -> list[list[Any]]:
    """Items in groups of n."""
    return [items[i : i + n] for i in range(0, len(items), n)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/validation"))
    parser.add_argument("--prior", default="embedded", help="embedded, or a folder")
    parser.add_argument("--shelf", type=Path, help="a batch of the nouns in their own colours")
    parser.add_argument("--only", nargs="*", default=list(NOUN_NAMES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    judge = ToyJudge("toy")

    shown: dict[str, dict[str, Tensor]] = {"true": {}, "prior": {}}
    true = {}
    for i, noun in enumerate(args.only):
        variants = [true_pictures(noun, np.random.default_rng([7, i, j])) for j in range(VARIANTS)]
        true[noun] = torch.stack(variants, dim=1)
        rgba = true_pictures(noun, None)
        shown["true"][noun] = rgba[..., :3] + (1 - rgba[..., 3:]) * torch.tensor(BACKGROUND)
    shown["prior"] = _kept(args.out, args.only, args.prior)
    if args.shelf is not None:
        shown["scenes"] = _scenes(args.shelf, args.only)
        side_by_side(shown["scenes"], shown["true"], args.out / "side-by-side.webp")

    columns = {
        name: {noun: named(judge, noun, views, true[noun]) for noun, views in pictures.items()}
        for name, pictures in shown.items()
    }
    sided = [n for n, one in columns["true"].items() if float(one.side.float().mean()) >= SURE]
    text = table(columns, sided)
    (args.out / "table.md").write_text(text)
    figures = {name: summary(found, sided) for name, found in columns.items()}
    (args.out / "summary.json").write_text(json.dumps({"sided": sided, **figures}, indent=1) + "\n")
    for name, pictures in shown.items():
        sheet(pictures, args.out / f"{name}.png")
    print(text)


def _kept(out: Path, nouns: list[str], name: str) -> dict[str, Tensor]:
    """The prior's pictures: those that an earlier call kept of the same weights, and the rest."""
    prior = DiffusionPrior.from_pretrained(name)
    digest = hashlib.sha256()
    for weights in prior.denoiser.state_dict().values():
        digest.update(weights.float().numpy().tobytes())
    file = out / f"samples-{digest.hexdigest()[:12]}.pt"
    kept: dict[str, Tensor] = torch.load(file, weights_only=True) if file.exists() else {}
    for noun in nouns:
        if noun not in kept:
            kept[noun] = samples_of(prior, noun)
            torch.save(kept, file)
    return {noun: kept[noun] for noun in nouns}


def _scenes(shelf: Path, nouns: list[str]) -> dict[str, Tensor]:
    """Of a batch's first seeds, the scenes of prompts that are a noun and nothing else."""
    found = {}
    for folder in find_shelf(shelf).jobs().values():
        job = folder.read()
        noun = job.prompt.partition(" ")[2]
        if noun in nouns and noun not in found and job.seed == 0:
            found[noun] = scene_pictures(folder.result.path)
    return found


if __name__ == "__main__":
    main()
