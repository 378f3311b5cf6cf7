"""The mathematics of a diffusion model: noising, kinds of prediction, guidance. Pure functions.

A picture x and noise e make z = alpha x + sigma e. For the usual, variance-preserving models
alpha^2 + sigma^2 = 1; for rectified flows alpha + sigma = 1. Nothing here depends on which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from dreamfusion.utils.devices import send

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]


@dataclass(frozen=True)
class TextEmbedding:
    """What a model makes of n texts. Only the model that made it knows what the numbers mean.

    tokens: (n, length, width), what its attention looks at.
    pooled: (n, width'), each text as one vector, for models that want that too.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, which: slice | Tensor) -> TextEmbedding:
        """Some of the texts: a slice, or rows (m,) int64."""
        return self._map(lambda values: values[which])

    def expand(self, n: int) -> TextEmbedding:
        """The same for n texts, if this is of one text or of n already; ValueError otherwise."""
        if len(self) not in (1, n):
            raise ValueError(f"{len(self)} texts cannot stand for {n} pictures")
        return self._map(lambda values: values.expand(n, *values.shape[1:]))

    def lerp(self, other: TextEmbedding, weight: float | Tensor) -> TextEmbedding:
        """self + weight (other - self), text by text; weight is one number or (n,) numbers."""
        amount = send(torch.as_tensor(weight, dtype=self.tokens.dtype), self.tokens.device)
        return self._map(lambda a, b: a + amount.reshape(-1, *[1] * (a.dim() - 1)) * (b - a), other)

    @staticmethod
    def cat(parts: Sequence[TextEmbedding]) -> TextEmbedding:
        """All texts of embeddings that one model made, in order."""
        first, *others = parts
        return first._map(lambda *values: torch.cat(values), *others)

    def _map(self, function: Callable[..., Tensor], *others: TextEmbedding) -> TextEmbedding:
        """`function` of the tokens, and of the pooled vectors where there are any."""
        tokens = function(self.tokens, *(other.tokens for other in others))
        if self.pooled is None:
            return TextEmbedding(tokens)
        return TextEmbedding(tokens, function(self.pooled, *(other.pooled for other in others)))


@dataclass(frozen=True)
class NegativePrompt:
    """A text that n pictures should not show, and how much each should not: weight (n,), >= 0."""

    text: TextEmbedding
    weight: Tensor


class NoisePredictor(Protocol):
    """What SDS and sampling ask of a diffusion model.

    alphas, sigmas: (T,) float32; z_t = alphas[t] x + sigmas[t] e. Timestep 0 is the cleanest.
    prediction: what `predict` returns: the noise, v = alpha e - sigma x, x itself, or the
        velocity e - x of a rectified flow.
    """

    alphas: Tensor
    sigmas: Tensor
    prediction: Prediction

    def encode_image(self, images: Tensor) -> Tensor:
        """(n, 3, h, w) pictures in [0, 1] as what the model denoises, (n, c, h', w')."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, text: TextEmbedding) -> Tensor:
        """The raw prediction (n, c, h', w') for timesteps (n,), int64, and n texts."""
        ...


def guided_prediction(
    prior: NoisePredictor,
    noisy: Tensor,
    timesteps: Tensor,
    text: TextEmbedding,
    unconditional: TextEmbedding,
    guidance: float,
    negative_prompts: Sequence[NegativePrompt] = (),
) -> Tensor:
    """uncond + guidance (text - uncond), both from one call of the prior with a batch of 2n.

    Without need for one of them (guidance 1 or 0) the other is predicted alone.

    negative_prompts: what the pictures should not show. Each takes part with the part of its
    direction that is perpendicular to the text's (Perp-Neg, Armandpour et al. 2023, eq. 6), so
    that it cannot cancel what the two have in common:

        uncond + guidance (d - sum_i w_i (d_i - (d_i . d / |d|^2) d)),   d = text - uncond
    """
    n = noisy.shape[0]
    text, unconditional = text.expand(n), unconditional.expand(n)
    if guidance == 1.0 and not negative_prompts:
        return prior.predict(noisy, timesteps, text)
    if guidance == 0.0:
        return prior.predict(noisy, timesteps, unconditional)
    texts = [unconditional, text, *(other.text.expand(n) for other in negative_prompts)]
    without_text, with_text, *others = prior.predict(
        torch.cat([noisy] * len(texts)),
        torch.cat([timesteps] * len(texts)),
        TextEmbedding.cat(texts),
    ).chunk(len(texts))
    direction = toward = with_text - without_text
    for other, prediction in zip(negative_prompts, others, strict=True):
        weight = send(other.weight, direction.device)[:, None, None, None]
        direction = direction - weight * _perpendicular(prediction - without_text, toward)
    return without_text + guidance * direction


def _perpendicular(a: Tensor, b: Tensor) -> Tensor:
    """The part of each picture of a, (n, c, h, w), that is perpendicular to that of b."""
    dims = (1, 2, 3)
    squared = b.square().sum(dims, keepdim=True)
    along = (a * b).sum(dims, keepdim=True) / squared.clamp(min=torch.finfo(b.dtype).tiny)
    return a - along * b


def add_noise(x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """z = alpha x + sigma noise; alpha and sigma broadcast against x."""
    return alpha * x + sigma * noise


def to_noise(
    prediction: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor, kind: Prediction
) -> Tensor:
    """The noise e that a prediction of any kind implies, given z. All shapes broadcast."""
    if kind == "epsilon":
        return prediction
    if kind == "v_prediction":
        return alpha * prediction + sigma * noisy
    if kind == "sample":
        return (noisy - alpha * prediction) / sigma
    if kind == "flow":
        return noisy + alpha * prediction
    raise ValueError(f"unknown kind of prediction {kind!r}")


def to_sample(
    prediction: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor, kind: Prediction
) -> Tensor:
    """The clean picture x that a prediction of any kind implies, given z. All shapes broadcast."""
    if kind == "epsilon":
        return (noisy - sigma * prediction) / alpha
    if kind == "v_prediction":
        return alpha * noisy - sigma * prediction
    if kind == "sample":
        return prediction
    if kind == "flow":
        return noisy - sigma * prediction
    raise ValueError(f"unknown kind of prediction {kind!r}")
