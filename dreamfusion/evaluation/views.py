"""Classifies images of nouns from all sides with the toy classifier.

The images are samples of a prior, and scenes of a batch. For each image: whether noun, main colour
and side are correct, and its PSNR to the nearest true image of that noun and view, over many
variants and on the image's own background. Sides count only for nouns whose sides the classifier
recognises on true images. To separate errors of the prior from errors of the distillation, compare
the columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamfusion.batch.jobs import find_batch
from dreamfusion.evaluation.judges import ToyJudge
from dreamfusion.evaluation.oracle import BACKGROUND, SUPERSAMPLE
from dreamfusion.evaluation.toy_network import COLOR_NAMES, NOUN_NAMES, SIZE
from dreamfusion.evaluation.truth import prompt_of
from dreamfusion.graphics.cameras import Cameras, orbit_cameras
from dreamfusion.graphics.media import contact_sheet, write_png
from dreamfusion.graphics.shading import over
from dreamfusion.priors import DiffusionPrior
from dreamfusion.priors.sampling import sample_images
from dreamfusion.priors.view_prompts import view_prompts
from dreamfusion.runs.checkpoint import load_scene
from dreamfusion.runs.folder import RunFolder
from dreamfusion.scenes.base import render_image
from dreamfusion.toyworld import NOUNS, make_object, view
from dreamfusion.toyworld.objects import PALETTE_TABLE
from dreamfusion.toyworld.render import downsample

AZIMUTHS, ELEVATIONS = 8, (10.0, 30.0, 50.0)
VIEWS = AZIMUTHS * len(ELEVATIONS)
VARIANTS = 8  # of each noun, from each view
SURE = 0.9  # accuracy for a noun's sides on true images that the classifier needs
STEPS, GUIDANCE = 16, 3.0


class Named(NamedTuple):
    """Results for the VIEWS images of a noun, elevation by elevation: which were classified
    correctly, (VIEWS,) each, and their PSNR to the nearest true image in dB, (VIEWS,)."""

    noun: Tensor
    color: Tensor
    side: Tensor
    psnr: Tensor


def cameras_of(spread: np.random.Generator | None = None) -> Cameras:
    """The VIEWS cameras; with `spread`, each random within the range of its view words."""
    azimuth = np.tile(np.arange(AZIMUTHS) * (360.0 / AZIMUTHS), len(ELEVATIONS))
    elevation = np.repeat(ELEVATIONS, AZIMUTHS)
    distance = np.full(VIEWS, 2.75)
    if spread is not None:
        azimuth = azimuth + spread.uniform(-11, 11, VIEWS)
        elevation = elevation + spread.uniform(-9, 9, VIEWS)
        distance = spread.uniform(2.65, 2.85, VIEWS)
    a, e, d = (torch.from_numpy(x).float() for x in (azimuth, elevation, distance))
    return orbit_cameras(a, e, d, torch.full((VIEWS,), 40.0))


def true_images(noun: str, rng: np.random.Generator | None) -> Tensor:
    """True RGBA images (VIEWS, SIZE, SIZE, 4) of the toy world, with premultiplied colours. Without
    `rng`, the object has its mean proportions."""
    buffers = view(make_object(noun, rng=rng), cameras_of(rng), SIZE * SUPERSAMPLE)
    index = torch.from_numpy(buffers.color_index).long()
    colors = torch.from_numpy(PALETTE_TABLE)[index]
    return downsample(torch.cat([colors, (index > 0)[..., None].float()], dim=-1), SUPERSAMPLE)


def on_background(rgba: Tensor) -> Tensor:
    """Premultiplied images (..., 4), composited on BACKGROUND: (..., 3)."""
    return rgba[..., :3] + (1 - rgba[..., 3:]) * torch.tensor(BACKGROUND)


def nearest_psnr(images: Tensor, true: Tensor) -> Tensor:
    """PSNR in dB (n,) of images (n, s, s, 3) to the nearest of their true ones (n, m, s, s, 4),
    composited on each image's background: the median colour of its border."""
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    background = border.median(dim=1).values[:, None, None, None]
    shown = true[..., :3] + (1 - true[..., 3:]) * background
    error = (shown - images[:, None]).square().flatten(2).mean(dim=2).amin(dim=1)
    return -10 * torch.log10(error.clamp(min=1e-6))


def named(judge: ToyJudge, noun: str, images: Tensor, true: Tensor) -> Named:
    """Results of the classifier, and the PSNR, for a noun's images (VIEWS, s, s, 3)."""
    said = {head: logits.argmax(dim=1) for head, logits in judge.logits(images).items()}
    color = next(kind.color for kind in NOUNS if kind.name == noun)
    side = torch.arange(AZIMUTHS).repeat(len(ELEVATIONS))
    return Named(
        said["noun"] == NOUN_NAMES.index(noun),
        said["color"] == COLOR_NAMES.index(color),
        said["azimuth"] == side,
        nearest_psnr(images, true),
    )


def samples_of(prior: DiffusionPrior, noun: str) -> Tensor:
    """Samples of the prior for a noun from all views: (VIEWS, SIZE, SIZE, 3)."""
    cameras = cameras_of()
    azimuths, elevations = cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist()
    texts = view_prompts(prior.card.vocabulary, noun, azimuths, elevations)
    images = sample_images(
        prior,
        prior.encode_text(texts),
        prior.encode_text([""]),
        guidance=GUIDANCE,
        steps=STEPS,
        generator=torch.Generator().manual_seed(NOUN_NAMES.index(noun)),
    )
    return images.movedim(1, -1)


def scene_images(run: RunFolder) -> Tensor:
    """A finished run's scene from all views, on BACKGROUND: (VIEWS, SIZE, SIZE, 3)."""
    scene = load_scene(run, run.read_config(), "cpu").scene
    large = SIZE * SUPERSAMPLE
    rgba = render_image(scene, cameras_of(), height=large, width=large, mode="albedo")
    return downsample(over(rgba, torch.tensor(BACKGROUND)), SUPERSAMPLE)


def means(found: dict[str, Named], sided: list[str]) -> dict[str, float | None]:
    """Means over nouns: shares in [0, 1], PSNR in dB; None if there are no values. sided: the nouns
    whose sides count."""
    counted = {"side": [found[noun] for noun in sided if noun in found]}
    out: dict[str, float | None] = {}
    for what in ("noun", "color", "side", "psnr"):
        values = [getattr(one, what).float() for one in counted.get(what, list(found.values()))]
        out[what] = float(torch.stack(values).mean()) if values else None
    return out


def table(columns: dict[str, dict[str, Named]], sided: list[str]) -> str:
    """Markdown: a row for each noun, the worst first by the last column's PSNR, and means."""

    def row(name: str, *groups: dict[str, Named]) -> str:
        cells = [name]
        for figures in (means(group, sided) for group in groups):
            share = (figures["noun"], figures["color"], figures["side"])
            cells += ["-" if value is None else f"{value:.1%}" for value in share]
            cells.append("-" if figures["psnr"] is None else f"{figures['psnr']:.1f}")
        return f"| {' | '.join(cells)} |"

    heads = [f"{name}: noun | colour | side | PSNR, dB" for name in columns]
    *_, last = columns.values()
    lines = [f"| noun | {' | '.join(heads)} |", "|---|" + "---|" * (4 * len(columns))]
    for noun in sorted(last, key=lambda noun: float(last[noun].psnr.mean())):
        lines.append(row(noun, *({noun: found[noun]} for found in columns.values())))
    return "\n".join([*lines, row("**mean**", *columns.values())]) + "\n"


def validate(
    out: Path, *, prior: str = "embedded", shelf: Path | None = None, nouns: Sequence[str] = ()
) -> str:
    """Classify the true images, the prior's and, with a batch, those of its scenes, for these nouns
    or all. Writes table.md, summary.json and sheets of all images; returns the table."""
    out.mkdir(parents=True, exist_ok=True)
    nouns = nouns or NOUN_NAMES
    judge = ToyJudge("toy")
    images: dict[str, dict[str, Tensor]] = {"true": {}}
    true = {}
    for i, noun in enumerate(nouns):
        variants = [true_images(noun, np.random.default_rng([7, i, j])) for j in range(VARIANTS)]
        true[noun] = torch.stack(variants, dim=1)
        images["true"][noun] = on_background(true_images(noun, None))
    images["prior"] = _samples(out, nouns, prior)
    if shelf is not None:
        images["scenes"] = _scenes(shelf, nouns)
    columns = {
        name: {noun: named(judge, noun, views, true[noun]) for noun, views in of_noun.items()}
        for name, of_noun in images.items()
    }
    sided = [n for n, one in columns["true"].items() if float(one.side.float().mean()) >= SURE]
    text = table(columns, sided)
    (out / "table.md").write_text(text, encoding="utf-8")
    figures = {name: means(found, sided) for name, found in columns.items()}
    (out / "summary.json").write_text(json.dumps({"sided": sided, **figures}, indent=1) + "\n")
    for name, of_noun in images.items():
        if of_noun:
            sheet = contact_sheet(torch.cat(list(of_noun.values())), columns=VIEWS, gap=0)
            write_png(sheet, out / f"{name}.png")
    return text


def _samples(out: Path, nouns: Sequence[str], name: str) -> dict[str, Tensor]:
    """Samples of the prior, from the cache of an earlier call with the same weights if present."""
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


def _scenes(shelf: Path, nouns: Sequence[str]) -> dict[str, Tensor]:
    """The scenes of a batch with seed 0 whose prompt is only a noun."""
    prompts = {prompt_of(noun): noun for noun in nouns}
    jobs = [(folder, folder.read()) for folder in find_batch(shelf).jobs().values()]
    return {
        prompts[job.prompt]: scene_images(folder.result)
        for folder, job in jobs
        if job.prompt in prompts and job.seed == 0
    }
