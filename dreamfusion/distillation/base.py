"""The interface of estimators, and what those that add noise have in common.

An estimator distils a prior into images and knows no scene: any differentiable generator can use
it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dreamfusion.diffusion.condition import Conditions
from dreamfusion.diffusion.predictions import NoisePredictor, Noisy, add_noise, group_size
from dreamfusion.distillation.noise import IndependentNoise, SurfaceNoise
from dreamfusion.distillation.settings import ScoreSettings
from dreamfusion.graphics.cameras import Cameras
from dreamfusion.utils.devices import send
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators, randint
from dreamfusion.utils.state import Progress, Stateful

Weighting = Literal["sigma2", "uniform", "inverse_sqrt_snr"]


@dataclass(frozen=True)
class Batch:
    """The n images of a step and what is known about them.

    images: (n, 3, H, W) in [0, 1], with gradients; or (n, ...) of whatever the caller's encoder
    takes. cameras: n, or None for plain images. depth, opacity: (n, H, W), or None for plain
    images. source: renders the same views of the scene that an edit starts from, (n, 3, H, W)
    without gradients; None where there is none.
    """

    images: Tensor
    conditions: Conditions
    cameras: Cameras | None = None
    depth: Tensor | None = None
    opacity: Tensor | None = None
    source: Callable[[], Tensor] | None = None


@dataclass(frozen=True)
class Distilled:
    """What an estimator returns.

    losses: weighted scalars by name; the trainer adds them up and differentiates. Each is a mean
    over views, channels and pixels, so that weights compare. metrics: detached scalars to log.
    timesteps: (n,) int64 on the CPU, or None where no noise is added.
    """

    losses: Mapping[str, Tensor]
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)
    timesteps: Tensor | None = None


class Estimator(Stateful, Protocol):
    """Distils a prior into images.

    An estimator that trains a network of its own steps that network's optimiser inside the call,
    after `utils.distributed.average_gradients`, and keeps both in its state.
    """

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        """generator: one for each view, so that a step does not depend on the number of
        processes."""
        ...


class _FixedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return 0.5 * gradient.square().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (grad / gradient.numel()), None


def distillation_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """The loss 1/2 mean(gradient^2) whose gradient with respect to x is gradient / numel.

    x, gradient: (n, ...), of one shape; the gradient counts as a constant.
    """
    loss: Tensor = _FixedGradient.apply(x, gradient.detach())
    return loss


def draw_timesteps(
    prior: NoisePredictor, n: int, levels: tuple[float, float], generator: Generators
) -> Tensor:
    """(n,) int64 timesteps on the CPU, uniform between two noise levels in [0, 1], ends included.

    The views of a group share that of its first.
    """
    last = len(prior.alphas) - 1
    low, high = (min(max(round(level * (last + 1)), 0), last) for level in levels)
    drawn = randint(low, max(low, high) + 1, (n,), generator)
    size = group_size(prior)
    return drawn if size == 1 else drawn[::size].repeat_interleave(size)


def weight(alpha: Tensor, sigma: Tensor, kind: Weighting) -> Tensor:
    """w(t): sigma^2 as in the paper, 1, or sigma / alpha = SNR^-1/2, at most 10.

    The last one turns the error of the noise into that of the image, x - x_hat.
    """
    if kind == "sigma2":
        return sigma**2
    if kind == "uniform":
        return torch.ones_like(sigma)
    if kind == "inverse_sqrt_snr":
        return (sigma / alpha).clamp(max=10.0)
    raise ValueError(f"unknown weighting {kind!r}")


class ScoreEstimator(Estimator):
    """Draws noise levels and noise; the base of estimators that ask for the noise."""

    def __init__(self, settings: ScoreSettings, prior: NoisePredictor, seed: int) -> None:
        if not hasattr(prior, "alphas") or not hasattr(prior, "predict"):
            name = getattr(prior, "name", type(prior).__name__)
            raise UserError(f"the estimator {settings.name!r} needs a diffusion prior, not {name}")
        self.settings, self.prior = settings, prior
        self.independent, self.anchored = IndependentNoise(), SurfaceNoise(seed)

    def noised(
        self, batch: Batch, progress: Progress, generator: Generators
    ) -> tuple[Tensor, Noisy, Tensor]:
        """The encoded images (with gradient), a noisy copy (without), and its timesteps on the
        CPU."""
        s = self.settings
        x = self.prior.encode_image(batch.images)
        levels = s.t_min.at(*progress), s.t_max.at(*progress)
        drawn = draw_timesteps(self.prior, len(x), levels, generator)
        noise = send(self.noise(x.shape, generator, batch, progress), x.device)
        with torch.no_grad():
            z = add_noise(self.prior, x.detach(), noise, send(drawn, x.device))
        return x, z, drawn

    def noise(
        self, shape: Sequence[int], generator: Generators, batch: Batch, progress: Progress
    ) -> Tensor:
        """Standard normal noise (n, ...): independent, or for a while anchored to the surface."""
        begin, end = self.settings.surface_noise or (1.0, 1.0)
        now = begin <= progress.step / progress.steps < end
        return (self.anchored if now else self.independent)(shape, generator, batch)

    def result(self, x: Tensor, gradient: Tensor, timesteps: Tensor, **more: float) -> Distilled:
        """The loss whose gradient is that of a mean over all numbers of x; metrics."""
        loss = distillation_loss(x, gradient)
        rms = gradient.square().mean().sqrt()
        name = self.settings.name
        return Distilled({name: loss}, {f"{name}_gradient": rms, **more}, timesteps)
