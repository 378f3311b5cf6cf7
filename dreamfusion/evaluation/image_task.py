"""The task of a comparison that distils images: a parameter for each pixel in place of a scene.

Images of a noun from eight sides are compared with the toy world's. Images that the prior samples
in the ordinary way, with as many network evaluations, are the method "sampling".
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dreamfusion.batch.jobs import read_json, write_json
from dreamfusion.config.layers import to_mapping
from dreamfusion.config.schema import Config, PriorConfig
from dreamfusion.distillation.base import Batch
from dreamfusion.evaluation.comparison import (
    Key,
    Measured,
    Method,
    config_of,
    require_distinct,
    steps_for,
)
from dreamfusion.evaluation.judges import (
    AZIMUTHS,
    COLOR_NAMES,
    FACED,
    NOUN_NAMES,
    ToyJudge,
    read_pair,
)
from dreamfusion.evaluation.oracle import SUPERSAMPLE
from dreamfusion.graphics.cameras import Cameras, orbit_cameras
from dreamfusion.graphics.media import contact_sheet, write_png
from dreamfusion.priors import DiffusionPrior, load_prior
from dreamfusion.priors.sampling import sample_images
from dreamfusion.runs.folder import slug
from dreamfusion.runs.plan import find_prior
from dreamfusion.toyworld.objects import PALETTE_TABLE, downsample, make_object, view
from dreamfusion.training.texts import ViewTexts
from dreamfusion.utils.devices import choose_device, send
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.state import Progress

SAMPLING = Method("sampling", None, {})
ELEVATION_DEG, DISTANCE, FOV_Y_DEG = 20.0, 2.75, 40.0
VARIANTS = 8  # true objects that images are compared with
LEARNING_RATE = 0.05  # of Adam, for colours in [0, 1]; falls to a tenth
SAMPLING_GUIDANCE = 3.0


def side_cameras(spread: np.random.Generator | None = None) -> Cameras:
    """A camera at each side; with `spread`, each random within the range of its view words."""
    azimuth = np.arange(AZIMUTHS) * (360.0 / AZIMUTHS)
    elevation, distance = np.full(AZIMUTHS, ELEVATION_DEG), np.full(AZIMUTHS, DISTANCE)
    if spread is not None:
        azimuth = azimuth + spread.uniform(-11, 11, AZIMUTHS)
        elevation = elevation + spread.uniform(-9, 9, AZIMUTHS)
        distance = distance + spread.uniform(-0.1, 0.1, AZIMUTHS)
    a, e, d = (torch.from_numpy(x).float() for x in (azimuth, elevation, distance))
    return orbit_cameras(a, e, d, torch.full((AZIMUTHS,), FOV_Y_DEG))


def true_images(noun: str, color: str, size: int, rng: np.random.Generator | None = None) -> Tensor:
    """RGBA images (AZIMUTHS, size, size, 4) of the toy world from all sides, with premultiplied
    colours. Without `rng`, the object has its mean proportions."""
    buffers = view(make_object(noun, color, rng=rng), side_cameras(rng), size * SUPERSAMPLE)
    index = torch.from_numpy(buffers.color_index).long()
    colors = torch.from_numpy(PALETTE_TABLE)[index]
    return downsample(torch.cat([colors, (index > 0)[..., None].float()], dim=-1), SUPERSAMPLE)


@lru_cache(maxsize=64)
def true_variants(noun: str, color: str, size: int) -> Tensor:
    """The true images of VARIANTS objects: (AZIMUTHS, VARIANTS, size, size, 4)."""
    rngs = [np.random.default_rng([7, NOUN_NAMES.index(noun), i]) for i in range(VARIANTS)]
    return torch.stack([true_images(noun, color, size, rng) for rng in rngs], dim=1)


def distil_images(config: Config, prior: Any, cameras: Cameras, *, steps: int, seed: int) -> Tensor:
    """Distil an image for each camera with the estimator and the prompt of a configuration:
    (n, 3, s, s) in [0, 1], from grey noise, by Adam.

    Raises UserError if numbers are no longer finite, or if the prior does not suit the estimator.
    """
    conditions = ViewTexts(prior, config).conditions(cameras, "albedo")
    settings: Any = config.estimator
    if getattr(settings, "surface_noise", None) is not None:
        settings = replace(settings, surface_noise=None)  # an image has no surface
    estimator = settings.build(prior, seed=seed)
    hold: int = getattr(settings, "hold", 1)
    generator = torch.Generator().manual_seed(seed)
    size = round(config.render.resolution.end)
    start = 0.5 + 0.1 * torch.randn(len(cameras), 3, size, size, generator=generator)
    images = torch.nn.Parameter(send(start, prior.device))
    optimizer = torch.optim.Adam([images], betas=(0.9, 0.99))
    seeds: list[int] = []
    for step in range(steps):
        if step % hold == 0:
            seeds = torch.randint(2**62, (len(cameras),), generator=generator).tolist()
        own = [torch.Generator().manual_seed(each) for each in seeds]
        progress = Progress(step, steps)
        distilled = estimator(Batch(images, conditions, cameras), progress=progress, generator=own)
        loss = torch.stack(list(distilled.losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if images.grad is None or not bool(images.grad.isfinite().all()):
            raise UserError(f"the gradient is not finite in step {step + 1}")
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - 0.9 * step / steps)
        optimizer.step()
    return images.detach().cpu().clamp(0, 1)


def measure_images(
    folder: Path,
    methods: Sequence[Method],
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    evaluations: Sequence[int],
    prior: str | None = None,
    settings: Mapping[str, Any] | None = None,
    track: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[Key, list[Measured]]:
    """Distil and measure the images of every method, prompt and seed. What is in the folder is not
    made again. A method that fails is reported in its rows.

    evaluations: of the network for the images of all sides together. Raises UserError if a prompt
    or a setting is invalid, or if two methods have the same label.
    """
    require_distinct(methods)
    planned: list[tuple[Method, int, Config]] = []
    for method in methods:
        configs = [config_of(method, prompt, prior, settings) for prompt in prompts]
        planned += product([method], evaluations, configs)
    judge = ToyJudge("toy")

    @lru_cache(maxsize=1)
    def loaded(options: PriorConfig, device: str) -> Any:
        return load_prior(find_prior(options, device), options, device=choose_device(device))

    found: dict[Key, list[Measured]] = {}
    for (method, budget, config), seed in track(list(product(planned, seeds))):
        prompt = config.prompt
        text = json.dumps([to_mapping(config), budget, method.label], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:8]
        name = f"{slug(prompt)}-s{seed}-{digest}.png"
        image = folder / "images" / f"{method.label}-{budget}" / name
        kept, reason = image.with_suffix(".json"), ""
        if not kept.is_file():
            try:
                images = _make(method, config, loaded(config.prior, config.device), budget, seed)
                image.parent.mkdir(parents=True, exist_ok=True)
                write_png(contact_sheet(images.movedim(1, -1), columns=AZIMUTHS, gap=0), image)
                write_json(kept, figures(judge, prompt, images.movedim(1, -1)))
            except UserError as error:
                reason = str(error)
        row = Measured(prompt, seed, read_json(kept), image if image.is_file() else None, 1, reason)
        found.setdefault((method.label, budget), []).append(row)
    return found


def figures(judge: ToyJudge, prompt: str, images: Tensor) -> dict[str, float]:
    """Measurements of the images of all sides, (AZIMUTHS, s, s, 3): shares whose noun, colour and
    side the classifier recognises, PSNR in dB to the nearest true image of that side, and the
    energy distance to the true images. The true images have each image's own background."""
    noun, color = read_pair(prompt)
    shown = on_background_of(images, true_variants(noun, color, images.shape[1]))
    error = (shown - images[:, None]).square().flatten(2).mean(dim=2).amin(dim=1)
    predicted = {head: logits.argmax(dim=1) for head, logits in judge.logits(images).items()}
    values = {
        "noun": float((predicted["noun"] == NOUN_NAMES.index(noun)).float().mean()),
        "color": float((predicted["color"] == COLOR_NAMES.index(color)).float().mean()),
        "psnr": float((-10 * torch.log10(error.clamp(min=1e-6))).mean()),
        "energy": energy_distance(images.flatten(1), shown.flatten(0, 1).flatten(1)),
    }
    if noun in FACED:
        values["side"] = float((predicted["azimuth"] == torch.arange(AZIMUTHS)).float().mean())
    return values


def on_background_of(images: Tensor, true: Tensor) -> Tensor:
    """True RGBA images (n, m, s, s, 4), premultiplied, on the background of images (n, s, s, 3):
    the median colour of the border. Returns (n, m, s, s, 3)."""
    border = torch.cat([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]], 1)
    background = border.median(dim=1).values[:, None, None, None]
    return true[..., :3] + (1 - true[..., 3:]) * background


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of samples (n, d) and (m, d), with the root mean square
    over d as distance. Zero in expectation only for equal distributions (Szekely and Rizzo)."""
    scale = x.shape[1] ** 0.5

    def within(z: Tensor) -> Tensor:
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return float((2 * torch.cdist(x, y).mean() - within(x) - within(y)) / scale)


def _make(method: Method, config: Config, prior: Any, budget: int, seed: int) -> Tensor:
    cameras = side_cameras()
    if method != SAMPLING:
        steps = steps_for(config, budget, AZIMUTHS)
        return distil_images(config, prior, cameras, steps=steps, seed=seed)
    if not isinstance(prior, DiffusionPrior):
        raise UserError(f"the prior {prior.name} cannot sample: it is not a diffusers pipeline")
    texts = ViewTexts(prior, config)
    return sample_images(
        prior,
        texts.conditions(cameras, "albedo").text.text,
        texts.unconditional,
        guidance=SAMPLING_GUIDANCE,
        steps=steps_for(config, budget, AZIMUTHS),
        generator=torch.Generator().manual_seed(seed),
    ).cpu()
