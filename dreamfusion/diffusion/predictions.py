"""The mathematics of a diffusion model: noising, kinds of prediction, guidance. Pure functions.

A clean image x and noise e make z = alpha x + sigma e. For the usual, variance-preserving models
alpha^2 + sigma^2 = 1; for rectified flows alpha + sigma = 1. The code supports both. An "image" is
anything that a model denoises: pixels, latents, a signal; of any rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamfusion.diffusion.condition import Condition, Conditions
from dreamfusion.utils.devices import send

Images = Float[Tensor, " b *image"]
Timesteps = Int64[Tensor, " b"]
PredictionKind = Literal["epsilon", "v_prediction", "sample", "flow"]


class NoisePredictor(Protocol):
    """Interface that distillation and sampling require from a diffusion model.

    alphas, sigmas: z_t = alphas[t] x + sigmas[t] e. Timestep 0 is the cleanest.
    prediction: what `predict` returns: the noise, v = alpha e - sigma x, x itself, or the velocity
        e - x of a rectified flow.

    A model that denoises several images jointly also has `group_size`, the number of consecutive
    rows in a group; the batch size is a multiple of it.
    """

    alphas: Float[Tensor, " timesteps"]
    sigmas: Float[Tensor, " timesteps"]
    prediction: PredictionKind

    def encode_image(self, images: Float[Tensor, "b 3 h w"], /) -> Images:
        """Encode images in [0, 1] for the denoiser. Differentiable."""
        ...

    def predict(self, noisy: Images, timesteps: Timesteps, condition: Condition, /) -> Images:
        """The raw prediction. The condition has one row for each image.

        Neither disables gradients nor detaches: the caller decides.
        """
        ...


def group_size(prior: object) -> int:
    """The number of consecutive rows that a prior denoises jointly; usually 1."""
    return int(getattr(prior, "group_size", 1))


@dataclass(frozen=True)
class Noisy:
    """Noisy images: value = alpha x + sigma noise, for the x that they were made from.

    alpha, sigma: one number for each image, (b, 1, ...), with as many axes as the images.
    """

    value: Images
    noise: Images
    timesteps: Timesteps
    alpha: Float[Tensor, "b *#image"]
    sigma: Float[Tensor, "b *#image"]


@dataclass(frozen=True)
class Prediction:
    """A prior's raw prediction for noisy images, in the form that `kind` names.

    Guidance combines raw predictions; convert to `noise` or `clean` afterwards.
    """

    raw: Images
    noisy: Noisy
    kind: PredictionKind

    @property
    def noise(self) -> Images:
        """The predicted noise."""
        raw, z = self.raw, self.noisy
        formulas: dict[PredictionKind, Callable[[], Tensor]] = {
            "epsilon": lambda: raw,
            "v_prediction": lambda: z.alpha * raw + z.sigma * z.value,
            "sample": lambda: (z.value - z.alpha * raw) / z.sigma,
            "flow": lambda: z.value + z.alpha * raw,
        }
        return formulas[self.kind]()

    @property
    def clean(self) -> Images:
        """The predicted clean image x0."""
        raw, z = self.raw, self.noisy
        formulas: dict[PredictionKind, Callable[[], Tensor]] = {
            "epsilon": lambda: (z.value - z.sigma * raw) / z.alpha,
            "v_prediction": lambda: z.alpha * z.value - z.sigma * raw,
            "sample": lambda: raw,
            "flow": lambda: z.value - z.sigma * raw,
        }
        return formulas[self.kind]()

    def with_clean(self, clean: Images) -> Prediction:
        """The prediction whose x0 is `clean`."""
        return replace(self, raw=clean, kind="sample")

    def clamped(self, bound: float | None) -> Prediction:
        """With x0 clamped to [-bound, bound] (Imagen's static thresholding); unchanged for None.

        Non-finite values are kept, so that they are detected.
        """
        if bound is None:
            return self
        clean = self.clean
        return self.with_clean(torch.where(clean.isfinite(), clean.clamp(-bound, bound), clean))


def levels(
    prior: NoisePredictor, timesteps: Timesteps, n_axes: int
) -> tuple[Float[Tensor, "b ..."], Float[Tensor, "b ..."]]:
    """alpha and sigma, (b, 1, ...) with `n_axes` axes, at the timesteps."""
    shape = (-1, *[1] * (n_axes - 1))
    return prior.alphas[timesteps].reshape(shape), prior.sigmas[timesteps].reshape(shape)


def add_noise(prior: NoisePredictor, x: Images, noise: Images, timesteps: Timesteps) -> Noisy:
    """z = alpha_t x + sigma_t e. All tensors are on one device."""
    alpha, sigma = levels(prior, timesteps, x.dim())
    return Noisy(alpha * x + sigma * noise, noise, timesteps, alpha, sigma)


def predictions(prior: NoisePredictor, z: Noisy, *conditions: Condition) -> list[Prediction]:
    """The predictions for the same images under each condition, by one call of the prior."""
    k = len(conditions)
    if k == 1:
        raw = prior.predict(z.value, z.timesteps, conditions[0])
        return [Prediction(raw, z, prior.prediction)]
    raw = prior.predict(
        torch.cat([z.value] * k), torch.cat([z.timesteps] * k), Condition.cat(conditions)
    )
    return [Prediction(part, z, prior.prediction) for part in raw.chunk(k)]


def guided(
    prior: NoisePredictor, z: Noisy, conditions: Conditions, scale: float, *, rescale: float = 0.0
) -> Prediction:
    """uncond + s (text - uncond), both from one call of the prior.

    This convention is used everywhere here; the other common one, text + s' (text - uncond), is
    equal at s' = s - 1. At scale 1 or 0, only the required prediction is computed.

    Each text in `conditions.opposed` contributes the component of its direction that is
    perpendicular to the text's (Perp-Neg, Armandpour et al. 2023, eq. 6):

        uncond + s (d - sum_i w_i (d_i - (d_i . d / |d|^2) d)),   d = text - uncond

    rescale: share of the scaling of x0 to the standard deviation of the text's x0, over a group of
    images (Lin et al. 2024, "Common diffusion noise schedules", eq. 15-16; MVDream's choice of x0).
    """
    if scale == 1.0 and not conditions.opposed:
        return predictions(prior, z, conditions.text)[0]
    if scale == 0.0:
        return predictions(prior, z, conditions.unconditional)[0]
    asked = [conditions.unconditional, conditions.text, *(other for other, _ in conditions.opposed)]
    without, text, *others = predictions(prior, z, *asked)
    direction = toward = text.raw - without.raw
    for other, (_, weight) in zip(others, conditions.opposed, strict=True):
        weight = send(weight, direction.device).reshape(-1, *[1] * (direction.dim() - 1))
        direction = direction - weight * _perpendicular(other.raw - without.raw, toward)
    result = replace(without, raw=without.raw + scale * direction)
    if rescale == 0.0:
        return result
    size = group_size(prior)
    wanted, found = (p.clean.unflatten(0, (-1, size)).flatten(1).std(dim=1) for p in (text, result))
    factor = 1.0 + rescale * (wanted / found - 1.0)
    factor = factor.repeat_interleave(size).reshape(-1, *[1] * (direction.dim() - 1))
    return result.with_clean(result.clean * factor)


def _perpendicular(rows: Images, to: Images) -> Images:
    """The component of each row perpendicular to that of `to`."""
    dims = tuple(range(1, rows.dim()))
    squared = to.square().sum(dims, keepdim=True)
    along = (rows * to).sum(dims, keepdim=True) / squared.clamp(min=torch.finfo(to.dtype).tiny)
    return rows - along * to
