"""The interface of estimators, and the base class of those that add noise.

An estimator distils a prior into the images of any differentiable generator, scene or not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dreamfusion.diffusion import predictions
from dreamfusion.diffusion.condition import Conditions
from dreamfusion.diffusion.predictions import Images, NoisePredictor, Noisy, Prediction, Timesteps
from dreamfusion.distillation.noise import SurfaceNoise
from dreamfusion.distillation.settings import ScoreSettings, Weighting
from dreamfusion.graphics.cameras import Cameras
from dreamfusion.utils.devices import send
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators, randint, randn
from dreamfusion.utils.state import Progress, Stateful


@dataclass(frozen=True)
class Batch:
    """The images of a step and their context.

    images: (b, 3, h, w) in [0, 1], with gradients; or of any rank for a custom encoder. cameras,
    depth, opacity: None for plain images. source: function that renders the same views of the scene
    that an edit starts from, without gradients; None if this is no edit.
    """

    images: Float[Tensor, "b ..."]
    conditions: Conditions
    cameras: Cameras | None = None
    depth: Float[Tensor, "b h w"] | None = None
    opacity: Float[Tensor, "b h w"] | None = None
    source: Callable[[], Float[Tensor, "b 3 h w"]] | None = None


@dataclass(frozen=True)
class Distilled:
    """What an estimator returns.

    losses: weighted, by name; the trainer adds them up and differentiates. Each is a mean over
    views, channels and pixels, so that weights are comparable. metrics: detached, to log.
    timesteps: on the CPU, or None if no noise is added.
    """

    losses: Mapping[str, Float[Tensor, ""]]
    metrics: Mapping[str, Float[Tensor, ""] | float] = field(default_factory=dict)
    timesteps: Timesteps | None = None


class Estimator(Stateful, Protocol):
    """Distils a prior into images.

    An estimator that trains its own network steps that network's optimiser inside the call, after
    `utils.distributed.average_gradients`, and includes both in its state.
    """

    def __call__(self, batch: Batch, *, progress: Progress, generator: Generators) -> Distilled:
        """generator: one for each view, so that a step does not depend on the number of
        processes."""
        ...


class _FixedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Images, gradient: Images) -> Float[Tensor, ""]:
        ctx.save_for_backward(gradient)
        return 0.5 * gradient.square().mean()

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, ""]) -> tuple[Images, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (grad / gradient.numel()), None


def distillation_loss(x: Images, gradient: Images) -> Float[Tensor, ""]:
    """The loss 1/2 mean(gradient^2) whose gradient with respect to x is gradient / numel; the
    argument is treated as a constant."""
    loss: Tensor = _FixedGradient.apply(x, gradient.detach())
    return loss


def draw_timesteps(
    prior: NoisePredictor, n: int, levels: tuple[float, float], generator: Generators
) -> Int64[Tensor, " {n}"]:
    """Timesteps on the CPU, uniform between two noise levels in [0, 1], ends included.

    The views of a group share one timestep.
    """
    last = len(prior.alphas) - 1
    low, high = (min(max(round(level * (last + 1)), 0), last) for level in levels)
    drawn = randint(low, max(low, high) + 1, (n,), generator)
    size = predictions.group_size(prior)
    return drawn if size == 1 else drawn[::size].repeat_interleave(size)


def weight(
    alpha: Float[Tensor, "*batch"], sigma: Float[Tensor, "*batch"], kind: Weighting
) -> Float[Tensor, "*batch"]:
    """w(t): sigma^2 as in the paper, 1, sigma / alpha = SNR^-1/2, at most 10, or 1 / alpha.

    Multiplied by the error of the noise, the third gives that of the image, x - x_hat, and the last
    that of the velocity, v_hat - v, for diffusions (v = alpha e - sigma x) and flows (v = e - x).
    """
    if kind == "sigma2":
        return sigma**2
    if kind == "uniform":
        return torch.ones_like(sigma)
    if kind == "inverse_sqrt_snr":
        return (sigma / alpha).clamp(max=10.0)
    return 1.0 / alpha


def weighted_error(prediction: Prediction, x: Images, kind: Weighting) -> Images:
    """w(t) (e_hat - e) of a prediction for the noisy x.

    For the velocity it is (x - x_hat) / sigma, which stays finite as alpha goes to 0.
    """
    z = prediction.noisy
    if kind == "velocity":
        return (x - prediction.clean) / z.sigma
    return weight(z.alpha, z.sigma, kind) * (prediction.noise - z.noise)


class ScoreEstimator(Estimator):
    """Draws noise levels and noise; the base class of estimators that use noise predictions."""

    def __init__(self, settings: ScoreSettings, prior: NoisePredictor, seed: int) -> None:
        if not hasattr(prior, "alphas") or not hasattr(prior, "predict"):
            name = getattr(prior, "name", type(prior).__name__)
            raise UserError(f"the estimator {settings.name!r} needs a diffusion prior, not {name}")
        self.settings, self.prior, self.seed = settings, prior, seed
        self.anchored = SurfaceNoise(seed, settings.noise_refresh)

    def encode(self, batch: Batch) -> Images:
        """Encode the images for the prior, with gradients; see the setting `clip_pixels`."""
        bound = self.settings.clip_pixels
        if bound is None:
            return self.prior.encode_image(batch.images)
        images = batch.images.view_as(batch.images)
        x = self.prior.encode_image(images)
        if images.requires_grad:
            images.register_hook(partial(_clip_pixels, most=bound / x.numel()))
        return x

    def timesteps(self, n: int, progress: Progress, generator: Generators) -> Int64[Tensor, " {n}"]:
        """Timesteps on the CPU."""
        s = self.settings
        low, high = s.t_min.at(*progress), s.t_max.at(*progress)
        if s.timesteps == "dreamtime":
            low = high = min(max(dreamtime_level(self.prior, progress), low), high)
        return draw_timesteps(self.prior, n, (low, high), generator)

    def noised(
        self, batch: Batch, progress: Progress, generator: Generators
    ) -> tuple[Images, Noisy, Timesteps]:
        """The encoded images (with gradient), a noisy copy (without), and its timesteps on the
        CPU."""
        x = self.encode(batch)
        drawn = self.timesteps(len(x), progress, generator)
        noise = send(self.noise(x.shape, generator, batch, progress), x.device)
        with torch.no_grad():
            z = predictions.add_noise(self.prior, x.detach(), noise, send(drawn, x.device))
        return x, z, drawn

    def noise(
        self, shape: Sequence[int], generator: Generators, batch: Batch, progress: Progress
    ) -> Images:
        """Standard normal noise: as set by `noise`, or anchored to the surface during the
        steps of `surface_noise`."""
        begin, end = self.settings.surface_noise or (1.0, 1.0)
        if begin <= progress.step / progress.steps < end:
            return self.anchored(shape, generator, batch, progress.step)
        if self.settings.noise == "fixed":
            one = torch.randn(*shape[1:], generator=torch.Generator().manual_seed(self.seed))
            return one.expand(*shape)
        return randn(shape, generator)

    def guided(self, z: Noisy, conditions: Conditions, scale: float) -> Prediction:
        """The prior's prediction at guidance `scale`, rescaled and clamped by the settings."""
        s = self.settings
        found = predictions.guided(self.prior, z, conditions, scale, rescale=s.rescale)
        return found.clamped(s.clip_sample)

    def weighted(self, z: Noisy, difference: Images) -> Images:
        """A difference of two predictions of the noise times w(t)."""
        return weight(z.alpha, z.sigma, self.settings.weighting) * difference

    def result(self, x: Images, gradient: Images, timesteps: Timesteps, **more: Any) -> Distilled:
        """The loss, whose gradient is that of a mean over all elements of x, and metrics."""
        loss = distillation_loss(x, gradient)
        rms = gradient.square().mean().sqrt()
        name = self.settings.name
        return Distilled({name: loss}, {f"{name}_gradient": rms, **more}, timesteps)

    def state_dict(self) -> Mapping[str, Any]:
        """The numbers of the surface-anchored noise, if they change."""
        numbers = self.anchored.numbers
        return {} if numbers is None else {"surface_noise": numbers}

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object:
        numbers = state_dict.get("surface_noise")
        self.anchored.numbers = None if numbers is None else numbers.clone()
        return None


def dreamtime_level(prior: NoisePredictor, progress: Progress) -> float:
    """The noise level of a step, in [0, 1]; never increases, and falls slowest between 80 and 50 %
    (DreamTime, Huang et al. 2024, eq. 7 to 9, with its settings for NeRFs).

    The level t of step i of N has sum_{u >= t} W(u) nearest to i / N for W = W_d W_p / sum, with
    W_d = sigma / alpha and W_p = 1 between 500 and 800 of 1,000 timesteps, exp(-(t - 800)^2 / 2
    300^2) above and exp(-(t - 500)^2 / 2 100^2) below. W_d is clamped at 20 (Stable Diffusion's
    ends at 14.6), since that of flows is unbounded.
    """
    levels = torch.linspace(0.0, 1.0, len(prior.alphas), dtype=torch.float64)
    above, below = (levels - 0.8).clamp(min=0.0) / 0.3, (levels - 0.5).clamp(max=0.0) / 0.1
    shape = torch.exp(-0.5 * (above**2 + below**2))
    ratio = (prior.sigmas / prior.alphas).double().cpu().clamp(max=20.0)
    weights = shape * ratio
    tail = (weights / weights.sum()).flip(0).cumsum(0).flip(0)
    return float(levels[(tail - progress.step / progress.steps).abs().argmin()])


def _clip_pixels(gradient: Float[Tensor, "b c *pixels"], most: float) -> Tensor:
    """The gradient of images with the norm of each pixel limited to `most`."""
    norm = gradient.norm(dim=1, keepdim=True)
    return gradient * (most / norm.clamp(min=most))
