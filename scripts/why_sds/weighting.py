"""The weightings w(t) of SDS."""

from __future__ import annotations

from typing import get_args

import dreamfusion as df
from dreamfusion.distillation.base import weight
from dreamfusion.distillation.sds.settings import SDSSettings
from dreamfusion.distillation.settings import Weighting
from scripts.plots import beside, image_columns, lines, stack
from scripts.why_sds.generators import Pixels, distil, generators
from scripts.why_sds.measures import Subjects, unfinished
from scripts.why_sds.result import Result, Row

LEVELS = (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.98)
NAMES = {
    "sigma2": "sigma2",
    "uniform": "uniform: 1",
    "inverse_sqrt_snr": "inverse_sqrt_snr:\nsigma/alpha, at most 10",
    "velocity": "velocity: 1/alpha",
}
NOISES = 8


def run(prior: df.Prior, *, steps: int = 50, seeds: int = 1) -> Result:
    """w(t), the size of the gradient that each weighting gives to a noise level, and images."""
    at = df.Schedule.constant
    subjects = Subjects.of("corgi,mug,chair", seeds)
    conditions, shown = subjects.conditions(prior), {}
    rows: list[Row] = []
    for kind in get_args(Weighting):
        settings = SDSSettings(guidance=at(4.0), t_max=at(0.98), weighting=kind)
        images = Pixels(len(subjects.nouns))
        shown[NAMES[kind]] = distil(images, settings.build(prior, seed=0), conditions, steps=steps)
        rows.append({"weighting": kind, **subjects.measure(shown[NAMES[kind]])})
    plots = [
        lines(found, title=title, x_label="noise level t", log=True)
        for found, title in (
            (weights(prior), "w(t)"),
            (gradients(prior), "RMS of the gradient at a blurred image"),
        )
    ]
    return Result(rows, stack([beside(plots), image_columns(shown, size=144)], gap=8))


def weights(prior: df.Prior) -> dict[str, tuple[list[float], list[float]]]:
    """w(t) at each noise level, by the name of the weighting."""
    indices = [round(level * (len(prior.alphas) - 1)) for level in LEVELS]
    alpha, sigma = prior.alphas[indices], prior.sigmas[indices]
    return {
        NAMES[kind]: (list(LEVELS), weight(alpha, sigma, kind).tolist())
        for kind in get_args(Weighting)
    }


def gradients(prior: df.Prior) -> dict[str, tuple[list[float], list[float]]]:
    """The RMS of the gradient of SDS at each noise level, by the name of the weighting."""
    _, blurred = unfinished()
    images = blurred.expand(NOISES, -1, -1, -1)
    batch = df.Batch(images, Subjects(("corgi",) * NOISES).conditions(prior))
    sizes = []
    for level in LEVELS:
        at = df.Schedule.constant(level)
        settings = SDSSettings(t_min=at, t_max=at, weighting="uniform")
        found = settings.build(prior, seed=0)(
            batch, progress=df.Progress(0, 1), generator=generators(NOISES, seed=1)
        )
        sizes.append(float(found.metrics["sds_gradient"]))
    return {
        name: (x, [w * size for w, size in zip(y, sizes, strict=True)])
        for name, (x, y) in weights(prior).items()
    }
