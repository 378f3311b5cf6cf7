"""DDIM: the deterministic way between noise levels (Song et al. 2021), down and up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dreamfusion.diffusion.predictions import NoisePredictor, Noisy, Prediction, levels

# The prediction for noisy images, whatever it is asked under.
Predict = Callable[[Noisy], Prediction]


def ddim_step(prior: NoisePredictor, prediction: Prediction, timesteps: Tensor) -> Noisy:
    """The images at other timesteps (n,), higher or lower, by what was predicted for them:

    z_t = alpha_t x_hat + sigma_t e_hat                                          (eq. 12)
    """
    noise, clean = prediction.noise, prediction.clean
    alpha, sigma = levels(prior, timesteps, clean.dim())
    return Noisy(alpha * clean + sigma * noise, noise, timesteps, alpha, sigma)


def clean_start(prior: NoisePredictor, x: Tensor) -> Noisy:
    """Clean images (n, ...) as noisy ones of level 0, which the prior judges at its first
    timestep. A model that predicts the image gets them with that timestep's level."""
    timesteps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    alpha, sigma = levels(prior, timesteps, x.dim())
    if prior.prediction != "sample":
        alpha, sigma = torch.ones_like(alpha), torch.zeros_like(sigma)
    return Noisy(alpha * x, torch.zeros_like(x), timesteps, alpha, sigma)


def invert(
    prior: NoisePredictor,
    x: Tensor,
    path: Sequence[Tensor],
    predict: Predict,
    *,
    perturb: Callable[[Noisy, Noisy], Noisy] | None = None,
) -> list[tuple[Noisy, Prediction]]:
    """Clean images (n, ...) brought up through ascending timesteps, each (n,), by DDIM.

    Returns the images at each of them with the prediction, for those before, that led there. Images
    that are at a timestep already stay as they are. perturb: changes the images of a step, which
    come with those before it.
    """
    z = clean_start(prior, x)
    found = []
    for timesteps in path:
        prediction = predict(z)
        moved = ddim_step(prior, prediction, timesteps)
        if perturb is not None:
            moved = perturb(moved, z)
        z = _where(timesteps == z.timesteps, z, moved)
        found.append((z, prediction))
    return found


def _where(which: Tensor, one: Noisy, other: Noisy) -> Noisy:
    """Some of the images (n,) of one, the rest of another."""
    rows = which.reshape(-1, *[1] * (one.value.dim() - 1))
    value, noise, alpha, sigma = (
        torch.where(rows, getattr(one, name), getattr(other, name))
        for name in ("value", "noise", "alpha", "sigma")
    )
    return Noisy(value, noise, torch.where(which, one.timesteps, other.timesteps), alpha, sigma)
