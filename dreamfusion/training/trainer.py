"""The optimisation. `Trainer.step` and `Trainer.loss` contain DreamFusion's algorithm."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dreamfusion.config.layers import override
from dreamfusion.config.schema import Config, LossConfig
from dreamfusion.diffusion.predictions import group_size
from dreamfusion.distillation.base import Batch, Distilled
from dreamfusion.scenes.base import Rendered, Scene, Views
from dreamfusion.training.state import TrainState, new_state, sample_views
from dreamfusion.training.texts import ViewTexts
from dreamfusion.utils.distributed import average_gradients, share
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.state import Progress
from dreamfusion.utils.threads import fixed_order

# Returns weighted scalar losses by name. Such losses depend on neither the prior nor the kind of
# scene; examples are reference views and parts that an edit must keep.
Loss = Callable[[Scene, Progress, torch.Generator], Mapping[str, Tensor]]


class TrainingError(UserError):
    """Training cannot continue."""


class DivergedError(TrainingError):
    """Numbers are no longer finite."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one training step.

    size: of the images, pixels. timesteps: of each view; empty if no noise is added. gradient_norm:
    over all parameters, before clipping. opacity: mean over the images. entropy: of opacity, bits.
    terms: the weighted losses of the estimator ("sds": half the mean square of the SDS gradient,
    the loss with that gradient for a fixed target) and the regularisers. loss: their sum.
    of_estimator: metrics of the estimator ("guidance", the scale s; "sds_gradient", RMS of
    w(t) (e_hat - e)).
    """

    step: int
    seconds: float
    shading: str
    size: int
    timesteps: list[int]
    gradient_norm: float
    opacity: float
    entropy: float
    loss: float
    of_estimator: dict[str, float]
    terms: dict[str, float]

    def as_mapping(self) -> dict[str, Any]:
        """All metrics by name, each loss term as loss_NAME: a line of metrics.jsonl."""
        terms = {f"loss_{name}": value for name, value in self.terms.items()}
        values = dataclasses.asdict(self)
        del values["terms"], values["of_estimator"]
        return values | self.of_estimator | terms


class Trainer:
    """An optimisation. Iterating over it takes the remaining steps and yields their metrics.

    config: see `resolve`; must include the camera settings on the prior's card. prior: a
    `priors.Prior`. state: to continue from, changed in place by each step; None creates one from
    the configuration's seed. losses: additional losses. start: the scene that an edit starts from.
    Raises UserError if the prior is incompatible, PromptError for an unknown prompt.
    """

    def __init__(
        self,
        config: Config,
        prior: Any,
        state: TrainState | None = None,
        *,
        losses: Sequence[Loss] = (),
        start: Scene | None = None,
    ) -> None:
        self.config = config = resolve(config, prior)
        self.prior, self.losses, self.start = prior, losses, start
        self.state = new_state(config, prior, start=start) if state is None else state
        self.texts = ViewTexts(prior, config)

    def __iter__(self) -> Iterator[StepMetrics]:
        return self.steps(lambda: False)

    def steps(self, stop: Callable[[], bool]) -> Iterator[StepMetrics]:
        """Take the remaining steps; `stop` is called before each, including the first."""
        while self.state.step < self.config.steps and not stop():
            yield self.step()

    def step(self) -> StepMetrics:
        """Take one step of DreamFusion: sample views, render, distil, regularise, update.

        Raises DivergedError if the loss or a gradient is not finite, before any parameter changes.
        """
        started = time.perf_counter()
        with fixed_order():
            state, scene = self.state, self.state.scene
            progress = self.config.progress(state.step)
            scene.before_step(progress, state.generator)
            views, distilled, terms, opacity = self.loss(progress, state.generator)
            loss = torch.stack(list(terms.values())).sum()
            scene.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            parameters = [p for group in scene.optimizer.param_groups for p in group["params"]]
            average_gradients(parameters)
            limit = self.config.optimizer.max_gradient_norm or float("inf")
            norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
            numbers = _read(distilled, terms, opacity, loss, norm)
            timesteps = [] if distilled.timesteps is None else distilled.timesteps.tolist()
            self._require_finite(numbers, timesteps)
            rates = self.config.optimizer
            factor = rates.scale.at(*progress) * 0.5**state.rollbacks
            factor *= min(1.0, (progress.step + 1) / max(rates.warmup_steps, 1))
            for group in scene.optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            scene.optimizer.step()
            scene.after_step(progress, state.generator)
            state.step += 1
            state.forget_rollbacks()
        return StepMetrics(
            step=state.step,
            seconds=time.perf_counter() - started,
            shading=views.lighting.shading,
            size=views.height,
            timesteps=timesteps,
            of_estimator={name: numbers.pop(name) for name in distilled.metrics},
            terms={name: numbers.pop(f"loss_{name}") for name in terms},
            **numbers,
        )

    def loss(
        self, progress: Progress, generator: torch.Generator
    ) -> tuple[Views, Distilled, dict[str, Tensor], Tensor]:
        """Returns the views of this process, the estimator's result, the weighted terms of the loss
        by name, and the opacity (n, H, W). Changes only the state of the generator and of the
        estimator.

        With several processes, each one renders its share of the views and reports metrics for
        these only. Each term is a mean over views, pixels and channels, so that the balance of
        regularisers and distillation does not depend on the prior's resolution.
        """
        scene, config = self.state.scene, self.config
        n, size = config.camera.views, group_size(self.prior)
        local = share(n, size)
        shared, hold = generator, getattr(config.estimator, "hold", 1)
        if hold > 1:  # consecutive steps share their views
            shared = torch.Generator().manual_seed(config.seed * 2**32 + progress.step // hold)
        views = sample_views(config, progress, shared, group_size=size)[local]
        seeds = torch.randint(2**62, (n,), generator=shared)[local]
        view_generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        rendered = scene.render(views, view_generators)
        batch = self.batch(views, rendered)
        distilled = self.state.estimator(batch, progress=progress, generator=view_generators)
        terms = dict(distilled.losses)
        terms |= opacity_losses(rendered.opacity, config.losses, progress)
        terms |= scene.regularisers(rendered, progress, generator)
        for loss in self.losses:
            terms |= loss(scene, progress, generator)
        return views, distilled, terms, rendered.opacity.detach()

    def batch(self, views: Views, rendered: Rendered) -> Batch:
        """The estimator's input for rendered views."""
        cameras = None if rendered.depth is None else views.cameras
        conditions = self.texts.conditions(views.cameras, views.lighting.shading)
        source = None if self.start is None else partial(_source, self.start, views)
        images = rendered.rgb.movedim(-1, 1)
        return Batch(images, conditions, cameras, rendered.depth, rendered.opacity, source)

    def _require_finite(self, numbers: Mapping[str, float], timesteps: list[int]) -> None:
        for name, value in numbers.items():
            if not abs(value) < float("inf"):
                raise DivergedError(
                    f"training diverged in step {self.state.step + 1} (timesteps {timesteps}): "
                    f"{name} is {value}; lower scene.optimizer.grid_lr or estimator.guidance, or "
                    "set optimizer.max_gradient_norm; if the prior overflows in "
                    f"{str(self.prior.dtype).removeprefix('torch.')}, set prior.dtype=float32"
                )


def resolve(config: Config, prior: Any) -> Config:
    """Replace "auto" in a configuration by the name, precision and device of the loaded prior."""
    actual = {
        "device": str(prior.device),
        "prior": {"name": prior.name, "dtype": str(prior.dtype).removeprefix("torch.")},
    }
    return override(config, actual)


@torch.no_grad()
def _source(start: Scene, views: Views) -> Tensor:
    """Render the scene that an edit starts from, for the same views: (n, 3, H, W)."""
    return start.averaged.render(views).rgb.movedim(-1, 1)


def _read(
    distilled: Distilled, terms: Mapping[str, Tensor], opacity: Tensor, loss: Tensor, norm: Tensor
) -> dict[str, float]:
    """The metrics of a step as Python numbers. All tensors are read in one transfer, since on a GPU
    each transfer waits for all queued work."""
    known = {k: v for k, v in distilled.metrics.items() if not isinstance(v, Tensor)}
    scalars = {
        **{k: v for k, v in distilled.metrics.items() if isinstance(v, Tensor)},
        "gradient_norm": norm,
        "loss": loss,
        "opacity": opacity.mean(),
        "entropy": entropy_loss(opacity),
        **{f"loss_{name}": term for name, term in terms.items()},
    }
    stacked = torch.stack([value.detach().float().to(loss.device) for value in scalars.values()])
    return known | dict(zip(scalars, stacked.tolist(), strict=True))


def opacity_loss(opacity: Tensor) -> Tensor:
    """Mean of sqrt(opacity^2 + 0.01), which favours empty space (DreamFusion, A.3).

    opacity: any shape, in [0, 1]. Returns a value between 0.1 (empty) and 1.005.
    """
    return (opacity.square() + 0.01).sqrt().mean()


def entropy_loss(opacity: Tensor) -> Tensor:
    """Mean binary entropy of opacity, in bits: 0 if all pixels are empty or solid, 1 at one half.

    opacity: any shape, in [0, 1]; clamped to [1e-5, 1 - 1e-5], since the slope is infinite at the
    ends.
    """
    p = opacity.clamp(1e-5, 1.0 - 1e-5)
    return -(p * torch.log2(p) + (1.0 - p) * torch.log2(1.0 - p)).mean()


def opacity_losses(opacity: Tensor, weights: LossConfig, progress: Progress) -> dict[str, Tensor]:
    """The weighted losses, scalars by name, without losses of weight 0."""
    terms: dict[str, Tensor] = {}
    if (weight := weights.entropy.at(*progress)) > 0:
        terms["entropy"] = weight * entropy_loss(opacity)
    if (weight := weights.opacity.at(*progress)) > 0:
        terms["opacity"] = weight * opacity_loss(opacity)
    return terms
