"""Priors in closed form: mixtures of normal distributions, whose means are the texts' tokens."""

import math

import torch
from torch.nn.functional import log_softmax

from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
from dreamfusion.distillation.base import Batch

KINDS = ("epsilon", "v_prediction", "sample", "flow")
T = 200


class Mixture:
    """x ~ mean over k of N(mean_k, deviation^2), in float64. Its predictions are the exact
    posterior means, without a network."""

    name = "mixture"
    dtype = torch.float64

    def __init__(self, kind="epsilon", deviation=0.5, shape=(1, 2, 2)):
        self.prediction, self.deviation, self.shape = kind, deviation, shape
        level = torch.linspace(0.03, 0.97, T, dtype=torch.float64)
        self.sigmas = level
        self.alphas = 1 - level if kind == "flow" else (1 - level**2).sqrt()

    def encode_image(self, images):
        return images

    def decode_image(self, encoded):
        return encoded

    def clean(self, z, alpha, sigma, means):
        """The posterior mean of x given z (n, ...), for means (n, k, ...)."""
        spread = alpha**2 * self.deviation**2 + sigma**2
        away = z[:, None] - alpha[:, None] * means
        axes = tuple(range(2, away.dim()))
        share = log_softmax(-away.square().sum(axes, keepdim=True) / (2 * spread[:, None]), 1).exp()
        each = means + alpha[:, None] * self.deviation**2 / spread[:, None] * away
        return (share * each).sum(1)

    def predict(self, noisy, timesteps, condition):
        shape = (-1, *[1] * (noisy.dim() - 1))
        alpha, sigma = (v[timesteps].reshape(shape) for v in (self.alphas, self.sigmas))
        means = condition.text.tokens.unflatten(-1, self.shape)
        clean = self.clean(noisy, alpha, sigma, means)
        noise = (noisy - alpha * clean) / sigma
        return {
            "epsilon": noise,
            "v_prediction": alpha * noise - sigma * clean,
            "sample": clean,
            "flow": noise - clean,
        }[self.prediction]


def text(seed, n, k=3, shape=(1, 2, 2)):
    """A text embedding with k means of the mixture, the same for n images."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(1, k, math.prod(shape), generator=generator, dtype=torch.float64)
    return Condition(TextEmbedding(means.expand(n, -1, -1)))


def batch(images, *, source=None, k=3):
    """Images with conditions for a prompt, an empty text and named texts."""
    n = len(images)
    named = {name: text(seed, n, k) for seed, name in enumerate(NAMES, 2)}
    return Batch(images, Conditions(text(0, n, k), text(1, n, k), named=named), source=source)


NAMES = ("negative", "wanted", "flawed", "source")
