"""DDIM: deterministic steps between noise levels (Song et al. 2021), and their inversion."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from dreamfusion.diffusion.predictions import (
    Images,
    NoisePredictor,
    Noisy,
    Prediction,
    Timesteps,
    levels,
)

# Predicts for noisy images, under any condition.
Predict = Callable[[Noisy], Prediction]


def ddim_step(prior: NoisePredictor, prediction: Prediction, timesteps: Timesteps) -> Noisy:
    """The images at other timesteps, higher or lower, given their predictions:

    z_t = alpha_t x_hat + sigma_t e_hat                                      (eq. 12)
    """
    noise, clean = prediction.noise, prediction.clean
    alpha, sigma = levels(prior, timesteps, clean.dim())
    return Noisy(alpha * clean + sigma * noise, noise, timesteps, alpha, sigma)


def clean_start(prior: NoisePredictor, x: Images) -> Noisy:
    """Clean images as noisy ones of level 0; the prior predicts at its first timestep. For a model
    that predicts the image, they have the level of that timestep."""
    timesteps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    alpha, sigma = levels(prior, timesteps, x.dim())
    if prior.prediction != "sample":
        alpha, sigma = torch.ones_like(alpha), torch.zeros_like(sigma)
    return Noisy(alpha * x, torch.zeros_like(x), timesteps, alpha, sigma)


def invert(
    prior: NoisePredictor,
    x: Images,
    path: Sequence[Timesteps],
    predict: Predict,
    *,
    perturb: Callable[[Noisy, Noisy], Noisy] | None = None,
) -> list[tuple[Noisy, Prediction]]:
    """DDIM inversion of clean images through ascending timesteps.

    Returns, for each timestep, the images and the prediction, from the previous images, that led
    there. Images already at a timestep are unchanged. perturb: function of the images of a step and
    the previous ones that returns modified images.
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


def _where(which: Bool[Tensor, " b"], one: Noisy, other: Noisy) -> Noisy:
    """Select images from `one` where `which` is true, else from `other`."""
    rows = which.reshape(-1, *[1] * (one.value.dim() - 1))
    value, noise, alpha, sigma = (
        torch.where(rows, getattr(one, name), getattr(other, name))
        for name in ("value", "noise", "alpha", "sigma")
    )
    return Noisy(value, noise, torch.where(which, one.timesteps, other.timesteps), alpha, sigma)
