"""Ancestral sampling against SDS from the same prior."""

from __future__ import annotations

import math

import torch
from PIL import Image
from torch import Tensor

import dreamfusion as df
from dreamfusion.diffusion.ddim import ddim_step
from dreamfusion.diffusion.predictions import Noisy, PredictionKind, levels, predictions
from dreamfusion.distillation.sds.settings import SDSSettings
from dreamfusion.priors.sampling import sample_images
from scripts.plots import beside, image_rows, lines, stack
from scripts.why_sds.generators import Pixels, distil
from scripts.why_sds.measures import Subjects
from scripts.why_sds.result import Result, Row

POINTS = 4000
BINS = torch.linspace(-3, 3, 61)
NO_TEXT = df.TextEmbedding(torch.zeros(1, 1, 1))


class Mixture:
    """A prior of numbers x in closed form: 70 % are near -1 and 30 % near 1.2. Its predictions are
    the exact posterior means."""

    prediction: PredictionKind = "sample"
    share = torch.tensor([0.7, 0.3])
    mean = torch.tensor([-1.0, 1.2])
    deviation = torch.tensor([0.35, 0.25])

    def __init__(self) -> None:
        level = torch.linspace(0.02, 0.999, 200)
        self.alphas, self.sigmas = (math.pi / 2 * level).cos(), (math.pi / 2 * level).sin()

    def encode_image(self, images: Tensor, /) -> Tensor:
        """The numbers themselves."""
        return images

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: df.Condition, /) -> Tensor:
        """The mean of x given z = alpha x + sigma e, (n, 1)."""
        alpha, sigma = levels(self, timesteps, 2)
        variance = alpha**2 * self.deviation**2 + sigma**2
        away = noisy - alpha * self.mean
        log_share = self.share.log() - away.square() / (2 * variance) - variance.log() / 2
        each = self.mean + alpha * self.deviation**2 / variance * away
        return (log_share.softmax(dim=1) * each).sum(dim=1, keepdim=True)

    def density(self, x: Tensor) -> Tensor:
        """The density of x (n,)."""
        away = (x[:, None] - self.mean) / self.deviation
        each = torch.exp(-away.square() / 2) / (self.deviation * math.sqrt(2 * math.pi))
        return (self.share * each).sum(dim=1)


def run(prior: df.DiffusionPrior, *, steps: int = 40, seeds: int = 5) -> Result:
    """Samples and SDS of two nouns by the embedded prior, and of a mixture of two normal
    distributions in closed form."""
    subjects = Subjects.of("corgi,mug", seeds)
    conditions, shown = subjects.conditions(prior), {}
    for scale in (1.0, 3.0):
        shown[f"samples,\ns = {scale:g}"] = sample_images(
            prior,
            conditions.text.text,
            conditions.unconditional.text,
            guidance=scale,
            steps=steps,
            generator=torch.Generator().manual_seed(0),
        )
    for scale in (1.0, 3.0):
        at = df.Schedule.constant
        settings = SDSSettings(guidance=at(scale), t_max=at(0.98))
        images, estimator = Pixels(len(subjects.nouns)), settings.build(prior, seed=0)
        shown[f"SDS,\ns = {scale:g}"] = distil(images, estimator, conditions, steps=steps)
    shown["true images"] = subjects.examples()
    rows: list[Row] = [
        {"method": name.replace("\n", " "), **subjects.measure(images)}
        for name, images in shown.items()
    ]
    rows[-1]["psnr"] = ""
    plot, of_mixture = mixture()
    return Result(rows + of_mixture, stack([plot, image_rows(shown, size=78)], gap=8))


def mixture() -> tuple[Image.Image, list[Row]]:
    """Samples and results of SDS from the mixture: histograms, and the share above 0."""
    prior = Mixture()
    centers = (BINS[1:] + BINS[:-1]) / 2
    curves = {"density": (centers.tolist(), prior.density(centers).tolist())}
    plots: list[Image.Image] = []
    rows: list[Row] = []
    for name, found in {
        "samples": mixture_samples(prior),
        "SDS, t from .02 to .3": mixture_sds(prior, 0.02, 0.3),
        "SDS, t from .02 to .98": mixture_sds(prior, 0.02, 0.98),
    }.items():
        histogram = torch.histc(found, len(centers), -3, 3) / (0.1 * len(found))
        of_both = {**curves, name: (centers.tolist(), histogram.tolist())}
        plots.append(lines(of_both, title="", x_label="x", size=(300, 240)))
        upper = found[found > 0]
        rows.append(
            {
                "method": f"mixture: {name}",
                "share above 0": len(upper) / len(found),
                "mean below 0": float(found[found <= 0].mean()),
                "deviation below 0": float(found[found <= 0].std()),
            }
        )
    return beside(plots, gap=0), rows


def mixture_samples(prior: Mixture) -> Tensor:
    """Numbers sampled with DDIM in 199 steps, (POINTS,)."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(POINTS, 1, generator=random)
    timesteps = torch.full((POINTS,), len(prior.alphas) - 1)
    z = Noisy(noise, noise, timesteps, *levels(prior, timesteps, 2))
    for _ in range(len(prior.alphas) - 1):
        (prediction,) = predictions(prior, z, df.Condition(NO_TEXT.expand(POINTS)))
        z = ddim_step(prior, prediction, z.timesteps - 1)
    return prior.predict(z.value, z.timesteps, df.Condition(NO_TEXT))[:, 0]


def mixture_sds(prior: Mixture, low: float, high: float) -> Tensor:
    """Numbers that SDS without guidance moves from a broad start, by Adam: (POINTS,)."""
    random = torch.Generator().manual_seed(0)
    x = (1.5 * torch.randn(POINTS, 1, generator=random)).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05, betas=(0.9, 0.99))
    steps = 500
    for step in range(steps):
        found = df.sds(
            prior,
            x,
            NO_TEXT,
            NO_TEXT,
            guidance=1.0,
            t_range=(low, high),
            generator=random,
        )
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - 0.95 * step / steps)
        optimizer.step()
    return x.detach()[:, 0]
