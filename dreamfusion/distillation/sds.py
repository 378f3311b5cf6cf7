"""Score Distillation Sampling (DreamFusion, section 3), for any differentiable generator.

For images x = g(theta), t ~ U(t_min, t_max), noise e ~ N(0, I) and z = alpha_t x + sigma_t e:

    grad_theta L_SDS = E[ w(t) (e_hat(z; y, t) - e) dx/dtheta ]                            (eq. 3)

The diffusion model is never differentiated: (e_hat - e) counts as a constant, so that only the
generator (and, for a latent model, its image encoder) takes part in the backward pass.

e_hat is under classifier-free guidance, in the convention uncond + s (text - uncond) everywhere;
the other one in use, text + s' (text - uncond), is the same at s' = s - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dreamfusion.diffusion.core import (
    NegativePrompt,
    NoisePredictor,
    TextEmbedding,
    add_noise,
    guided_prediction,
    to_noise,
    to_sample,
)
from dreamfusion.utils.devices import send
from dreamfusion.utils.rng import Generators, randint, randn

Weighting = Literal["sigma2", "uniform", "inverse_sqrt_snr"]
# Standard normal noise of a shape, from generators: `randn`, or noise that pictures share.
NoiseSource = Callable[[Sequence[int], Generators], Tensor]


@dataclass(frozen=True)
class SDSResult:
    """One evaluation of SDS on n pictures.

    loss: scalar whose gradient with respect to the encoded pictures is exactly `gradient`. Its
        value means nothing.
    gradient: (n, c, h', w') w(t) (e_hat - e), detached.
    timesteps: (n,) int64, on the CPU.
    noise, predicted_noise: (n, c, h', w'), e and e_hat.
    """

    loss: Tensor
    gradient: Tensor
    timesteps: Tensor
    noise: Tensor
    predicted_noise: Tensor


def sds(
    prior: NoisePredictor,
    images: Tensor,
    text: TextEmbedding,
    unconditional: TextEmbedding,
    *,
    guidance: float,
    t_range: tuple[float, float],
    weighting: Weighting = "sigma2",
    clip_sample: float | None = None,
    negative_prompts: Sequence[NegativePrompt] = (),
    generator: Generators,
    draw_noise: NoiseSource = randn,
) -> SDSResult:
    """SDS for pictures (n, 3, h, w) in [0, 1], summed over them: divide the loss by n for a mean.

    text, unconditional: of n texts, or of one text for all pictures.
    guidance: s >= 0; 1 is no guidance, 0 ignores the text.
    t_range: least and greatest noise level in [0, 1]; each picture draws its own in between.
    clip_sample: e_hat is that of the guessed clean picture cut off at -clip_sample and clip_sample
    (Imagen's static thresholding); None leaves it as it is. At 1, for a model of pixels in [-1, 1],
    guidance cannot ask for what is brighter than white or more coloured than a screen can be.
    negative_prompts: texts that the pictures should not show; see `diffusion.guided_prediction`.
    generator: on the CPU, or one for each picture; the one source of randomness, whatever the
    device of the pictures.
    draw_noise: gives e for a shape (n, c, h', w'); each number standard normal. Independent numbers
    are the paper's; ones that views of one object share make their guesses agree.
    """
    encoded = prior.encode_image(images)
    n, device = encoded.shape[0], encoded.device
    drawn = sample_timesteps(n, t_range, prior.alphas.shape[0], generator)
    timesteps = send(drawn, device)
    noise = send(draw_noise(encoded.shape, generator), device)
    alpha, sigma = _at(prior.alphas, timesteps), _at(prior.sigmas, timesteps)
    with torch.no_grad():
        noisy = add_noise(encoded.detach(), noise, alpha, sigma)
        prediction = guided_prediction(
            prior, noisy, timesteps, text, unconditional, guidance, negative_prompts
        )
        kind = prior.prediction
        if clip_sample is not None:
            guess = to_sample(prediction, noisy, alpha, sigma, kind)
            inside = guess.clamp(-clip_sample, clip_sample)
            # What is not finite has to be noticed, and stays as it is.
            prediction, kind = torch.where(guess.isfinite(), inside, guess), "sample"
        predicted_noise = to_noise(prediction, noisy, alpha, sigma, kind)
        gradient = weight(alpha, sigma, weighting) * (predicted_noise - noise)
    return SDSResult(distillation_loss(encoded, gradient), gradient, drawn, noise, predicted_noise)


def distillation_loss(encoded: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to `encoded` is `gradient`; both (n, c, h, w)."""
    return (encoded * gradient.detach()).sum()


def sample_timesteps(
    n: int, t_range: tuple[float, float], n_timesteps: int, generator: Generators
) -> Tensor:
    """(n,) int64 timesteps, uniform between the two fractions of `n_timesteps`, ends included."""
    low, high = (
        min(max(round(fraction * n_timesteps), 0), n_timesteps - 1) for fraction in t_range
    )
    return randint(low, max(low, high) + 1, (n,), generator)


def weight(alpha: Tensor, sigma: Tensor, kind: Weighting) -> Tensor:
    """w(t): sigma^2 as in the paper, 1, or sigma / alpha = SNR^-1/2, at most 10.

    The last one turns the error of the noise into that of the picture, x - x_hat.
    """
    if kind == "sigma2":
        return sigma**2
    if kind == "uniform":
        return torch.ones_like(sigma)
    if kind == "inverse_sqrt_snr":
        return (sigma / alpha).clamp(max=10.0)
    raise ValueError(f"unknown weighting {kind!r}")


def _at(values: Tensor, timesteps: Tensor) -> Tensor:
    """values (T,) at timesteps (n,), as (n, 1, 1, 1)."""
    return values[timesteps][:, None, None, None]
