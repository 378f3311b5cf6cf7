#!/usr/bin/env python
"""Measure the effect of half precision on a prior's guidance: the error of w(t) (e_hat - e) in
float16 and bfloat16 relative to float32, and the largest activation relative to float16's range.

    python -m scripts.measure_precision embedded /models/stable-diffusion-xl-base-1.0

Runs on the CPU, where half precision is slow, but rounds as on a GPU up to the order of sums. The
images are samples of the prior. Prints a Markdown table: the relative error (RMS over all pixels of
all images) at some noise levels, and the largest activation as a share of float16's maximum, 65504.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import torch
from torch import Tensor, nn

from dreamfusion.config.schema import PriorConfig
from dreamfusion.diffusion.condition import Condition, Conditions
from dreamfusion.diffusion.predictions import add_noise, guided
from dreamfusion.priors import DiffusionPrior, load_prior
from dreamfusion.priors.sampling import sample_images

LEVELS = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)  # fractions of all timesteps
LARGEST = torch.finfo(torch.float16).max


@contextmanager
def largest_activation(denoiser: nn.Module) -> Iterator[list[float]]:
    """A list to which the largest output of every layer is appended."""
    found: list[float] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            found.append(float(output.abs().max()))

    hooks = [part.register_forward_hook(look) for part in denoiser.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def guidance_gradients(
    prior: DiffusionPrior, clean: Tensor, noise: Tensor, prompts: list[str], scale: float
) -> list[Tensor]:
    """e_hat - e for images (n, c, h, w) at each of LEVELS."""
    text, empty = prior.encode_text(prompts), prior.encode_text([""]).expand(len(prompts))
    conditions = Conditions(Condition(text), Condition(empty))
    gradients = []
    for level in LEVELS:
        t = torch.full((len(clean),), round(level * (len(prior.alphas) - 1)))
        z = add_noise(prior, clean, noise, t)
        gradients.append(guided(prior, z, conditions, scale).noise - noise)
    return gradients


def measure(name: str, prompt: str, n: int, scale: float) -> Iterator[str]:
    """The rows of a table for one prior."""
    prior = _load(name, "float32")
    generator = torch.Generator().manual_seed(0)
    azimuths = [360.0 * i / n for i in range(n)]
    prompts = [prior.card.vocabulary.view_prompt(prompt, at, 15.0) for at in azimuths]
    drawn = sample_images(
        prior, prior.encode_text(prompts), prior.encode_text([""]), guidance=scale, steps=20,
        generator=generator,
    )  # fmt: skip
    with torch.no_grad():
        clean = prior.encode_image(drawn)
    noise = torch.randn(clean.shape, generator=generator)
    with largest_activation(prior.denoiser) as activations:
        exact = guidance_gradients(prior, clean, noise, prompts, scale)
    share = max(activations) / LARGEST
    halves: tuple[Literal["float16", "bfloat16"], ...] = ("float16", "bfloat16")
    for dtype in halves:
        half = _load(name, dtype)
        found = guidance_gradients(half, clean, noise, prompts, scale)
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]
        cells = " | ".join(f"{error:.2%}" for error in errors)
        yield f"| {Path(prior.name).name} | {dtype} | {cells} | {share:.1%} |"


def _load(name: str, dtype: Literal["float32", "float16", "bfloat16"]) -> DiffusionPrior:
    prior = load_prior(name, PriorConfig(dtype=dtype))
    assert isinstance(prior, DiffusionPrior)
    return prior


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("priors", nargs="+", metavar="PRIOR")
    parser.add_argument("--prompt", default="a red corgi")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--guidance", type=float, default=7.5)
    args = parser.parse_args()
    levels = " | ".join(f"t {level:.0%}" for level in LEVELS)
    print(f"| prior | denoiser | {levels} | largest activation |")
    print("|---|---|" + "---|" * (len(LEVELS) + 1))
    for name in args.priors:
        for row in measure(name, args.prompt, args.pictures, args.guidance):
            print(row, flush=True)


if __name__ == "__main__":
    main()
