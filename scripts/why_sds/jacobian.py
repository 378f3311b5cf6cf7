"""SDS against the diffusion loss, whose gradient passes through the U-Net."""

from __future__ import annotations

import time

import torch
from torch import Tensor

import dreamfusion as df
from dreamfusion.distillation.sds.settings import DiffusionLossSettings, SDSSettings
from scripts.plots import beside, image_columns, lines, stack
from scripts.why_sds.generators import SIZE, Pixels, distil, generators
from scripts.why_sds.measures import Subjects, unfinished
from scripts.why_sds.result import Result, Row

LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
METHODS = {"SDS": SDSSettings, "through the U-Net": DiffusionLossSettings}
NOISES = 16


def run(prior: df.Prior, *, steps: int = 50, seeds: int = 1) -> Result:
    """The gradient of both losses at a blurred image, over noise levels, and the images that both
    make from noise."""
    curves = {name: [noise_and_cosine(prior, name, level) for level in LEVELS] for name in METHODS}
    plots = [
        lines(
            {name: (LEVELS, [values[i] for values in found]) for name, found in curves.items()},
            title=title,
            x_label="noise level t",
        )
        for i, title in enumerate(
            ("standard deviation / mean of the gradient", "cosine with the way to the true image")
        )
    ]
    subjects, shown = Subjects.of("corgi,mug", seeds), {}
    rows: list[Row] = []
    for guidance in (1.0, 4.0):
        for name, method in METHODS.items():
            scale = df.Schedule.constant(guidance)
            estimator = method(guidance=scale, t_max=df.Schedule.constant(0.98)).build(
                prior, seed=0
            )
            pixels = Pixels(len(subjects.nouns))
            images = distil(pixels, estimator, subjects.conditions(prior), steps=steps)
            shown[f"{name},\ns = {guidance:g}"] = images
            noise, cosine = zip(*curves[name], strict=True)
            rows.append(
                {
                    "method": name,
                    "s": guidance,
                    "ms": 1000 * seconds(prior, name, guidance),
                    "MiB": bytes_kept(prior, name, guidance) / 2**20,
                    "noise .02": noise[0],
                    "noise .5": noise[5],
                    "cosine .02": cosine[0],
                    "cosine .5": cosine[5],
                    **subjects.measure(images),
                }
            )
    return Result(rows, stack([beside(plots), image_columns(shown, size=144)], gap=8))


def gradients(prior: df.Prior, name: str, level: float, images: Tensor, guidance: float) -> Tensor:
    """The gradient of one loss at a noise level, at each of n images with its own noise, in units
    of the images: (n, 3, h, w)."""
    at = df.Schedule.constant(level)
    settings = METHODS[name](guidance=df.Schedule.constant(guidance), t_min=at, t_max=at)
    leaf = images.clone().requires_grad_()
    batch = df.Batch(leaf, Subjects(("corgi",) * len(images)).conditions(prior))
    progress, random = df.Progress(0, 1), generators(len(images), seed=1)
    found = settings.build(prior, seed=0)(batch, progress=progress, generator=random)
    torch.stack(list(found.losses.values())).sum().backward()
    assert leaf.grad is not None
    return leaf.grad * leaf.numel()


def noise_and_cosine(prior: df.Prior, name: str, level: float) -> tuple[float, float]:
    """The standard deviation of the gradient over noises divided by the norm of its mean, and the
    mean cosine between the gradient of one noise and the way from the true image to a blurred one,
    which is the direction that a gradient should have."""
    true, blurred = unfinished()
    found = gradients(prior, name, level, blurred.expand(NOISES, -1, -1, -1), 1.0).flatten(1)
    mean = found.mean(dim=0)
    variance = (found - mean).square().sum() / (NOISES - 1)
    # The mean over a few noises is too long by a share of the variance.
    squared = (mean.square().sum() - variance / NOISES).clamp(min=1e-3 * variance / NOISES)
    cosine = torch.cosine_similarity(found, (blurred - true).flatten(1), dim=1).mean()
    return float((variance / squared).sqrt()), float(cosine)


def seconds(prior: df.Prior, name: str, guidance: float) -> float:
    """Seconds of one loss and its gradient for one image: the fastest of ten."""
    durations = []
    for _ in range(10):
        begun = time.perf_counter()
        gradients(prior, name, 0.5, torch.full((1, 3, SIZE, SIZE), 0.5), guidance)
        durations.append(time.perf_counter() - begun)
    return min(durations)


def bytes_kept(prior: df.Prior, name: str, guidance: float) -> int:
    """Bytes of the tensors that one loss of one image keeps for its backward pass, without the
    weights of the network."""
    weights = {one.untyped_storage().data_ptr() for one in prior.denoiser.parameters()}  # type: ignore[attr-defined]
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gradients(prior, name, 0.5, torch.full((1, 3, SIZE, SIZE), 0.5), guidance)
    return sum(kept.values())
