"""DreamFusion's optimisation: `Trainer.step` and `Trainer.loss` are the whole algorithm."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dreamfusion.config.layers import override
from dreamfusion.config.schema import Config
from dreamfusion.distillation.sds import NoiseSource, SDSResult, sds
from dreamfusion.distillation.surface_noise import surface_noise
from dreamfusion.graphics.cameras import generate_rays
from dreamfusion.scenes.nerf.field import Field
from dreamfusion.scenes.nerf.renderer import RenderOutput, render
from dreamfusion.training.losses import entropy_loss, regularisers
from dreamfusion.training.state import TrainState, new_state
from dreamfusion.training.texts import ViewTexts
from dreamfusion.training.views import Views, sample_views
from dreamfusion.utils.distributed import average_gradients, share
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators, randn
from dreamfusion.utils.threads import fixed_order

if TYPE_CHECKING:
    from dreamfusion.priors import DiffusionPrior


class TrainingError(UserError):
    """A run that cannot go on."""


class DivergedError(TrainingError):
    """Numbers that are not finite any more."""


@dataclass(frozen=True)
class StepMetrics:
    """Metrics of one training step.

    size: of the pictures, pixels. timesteps: of each view. guidance: the scale s. sds_gradient: RMS
    of w(t) (e_hat - e) over all pixels. gradient_norm: of all parameters, before clipping. opacity:
    mean over the pictures. entropy: of opacity, bits. loss: the sum of `terms`, which are weighted:
    "sds", half the mean square of the SDS gradient (the loss whose gradient that is, for a target
    held fixed), and the regularisers.
    """

    step: int
    seconds: float
    shading: str
    size: int
    timesteps: list[int]
    guidance: float
    sds_gradient: float
    gradient_norm: float
    opacity: float
    entropy: float
    loss: float
    terms: dict[str, float]

    def as_mapping(self) -> dict[str, Any]:
        """All of it by name, each term of the loss as loss_NAME: a line of metrics.jsonl."""
        terms = {f"loss_{name}": value for name, value in self.terms.items()}
        values = dataclasses.asdict(self)
        del values["terms"]
        return values | terms


_MUST_BE_FINITE = {
    "sds_gradient": "the norm of the prior's gradient",
    "gradient_norm": "the norm of the scene's gradient",
    "loss": "the loss",
}


class Trainer:
    """A run's optimisation; iterating over it takes the steps that remain, and gives the metrics of
    each.

    config: see `resolve`; whatever the prior's card knows of cameras must be in it already.
    state: to go on from; a new one, from the configuration's seed, where None. It changes with
    each step.
    """

    def __init__(
        self, config: Config, prior: DiffusionPrior, state: TrainState | None = None
    ) -> None:
        self.config = config = resolve(config, prior)
        self.prior = prior
        self.state = new_state(config, config.device) if state is None else state
        prompt = prior.card.vocabulary.canonical(config.prompt)
        self.texts = ViewTexts(prior, prior.card.vocabulary, prompt, config.prior)

    def __iter__(self) -> Iterator[StepMetrics]:
        while self.state.step < self.config.steps:
            yield self.step()

    def step(self) -> StepMetrics:
        """One step of DreamFusion: look, render, distil, regularise, update.

        Raises DivergedError where the loss or a gradient is not finite, before the parameters are
        touched.
        """
        with fixed_order():
            return self._step()

    def _step(self) -> StepMetrics:
        started = time.perf_counter()
        state, config = self.state, self.config
        self._shape_field()
        if state.step % config.occupancy.update_every == 0 and state.step > 0:
            state.occupancy.update(state.field.density, state.generator)

        loss, about, scalars = self.loss(state.step, state.generator)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
        average_gradients(parameters)
        limit = config.optimizer.max_gradient_norm or float("inf")
        scalars["gradient_norm"] = torch.nn.utils.clip_grad_norm_(parameters, limit)
        # Read at once: on a GPU each reading waits for all that was asked of it.
        numbers = torch.stack([value.detach().float() for value in scalars.values()]).tolist()
        values = dict(zip(scalars, numbers, strict=True))
        for name, what in _MUST_BE_FINITE.items():
            if not abs(values[name]) < float("inf"):
                overflow = name == "sds_gradient" and self.prior.dtype == torch.float16
                raise _diverged(state.step, about["timesteps"], what, values[name], overflow)
        self._update()

        state.step += 1
        terms = {
            name.removeprefix("loss_"): values.pop(name) for name in scalars if "loss_" in name
        }
        seconds = time.perf_counter() - started
        return StepMetrics(step=state.step, seconds=seconds, terms=terms, **about, **values)

    def loss(
        self, step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
        """The loss of `step`, what there is to tell of it, and scalars that are not read yet.
        Changes nothing but the generator.

        Of several processes each has its share of the views, and tells of these. The distillation
        term is a mean over views, pixels and channels, so that the regularisers weigh the same
        against it at any resolution of the prior.
        """
        state, config = self.state, self.config
        mine = share(config.camera.views)
        views = sample_views(config, step, generator, own_background=state.background)[mine]
        seeds = torch.randint(2**62, (config.camera.views,), generator=generator)[mine]
        own = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        out = self.render(views, own)
        azimuth, elevation = views.cameras.azimuth_deg, views.cameras.elevation_deg
        text, negatives = self.texts.of_views(
            azimuth.tolist(), elevation.tolist(), views.lighting.shading
        )
        guidance = config.sds.guidance.at(step, config.steps)
        distilled = sds(
            self.prior,
            out.rgb.movedim(-1, 1),
            text,
            self.texts.unconditional,
            guidance=guidance,
            t_range=(
                config.sds.t_min.at(step, config.steps),
                config.sds.t_max.at(step, config.steps),
            ),
            weighting=config.sds.weighting,
            clip_sample=config.sds.clip_sample,
            negative_prompts=negatives,
            generator=own,
            draw_noise=self._noise_of(step, views, out),
        )
        terms = regularisers(state.field, config, out, step, generator)
        loss = distilled.loss / distilled.gradient.numel()
        if terms:
            loss = loss + sum(terms.values())
        about = {
            "shading": views.lighting.shading,
            "size": views.size,
            "timesteps": distilled.timesteps.tolist(),
            "guidance": guidance,
        }
        return loss, about, _scalars(distilled, out.opacity.detach(), terms)

    def render(self, views: Views, generator: Generators) -> RenderOutput:
        """Render a step's views, differentiably: pixels are (n, size, size, ...).

        generator: jitters the samples; one, or one for each view.
        """
        scene = self.state.scene
        here = views.to(scene.device)
        return render(
            scene,
            generate_rays(here.cameras, views.size, views.size),
            background=here.background,
            lighting=here.lighting,
            generator=generator,
            options=self.config.render,
            step_size=views.step_size,
        )

    def _noise_of(self, step: int, views: Views, out: RenderOutput) -> NoiseSource:
        """What draws a step's noise: independent numbers, or for a while those of the surface."""
        begin, end = self.config.sds.surface_noise or (1.0, 1.0)
        if not begin <= step / self.config.steps < end:
            return randn
        return partial(
            surface_noise,
            cameras=views.cameras.to(out.depth.device),
            depth=out.depth,
            opacity=out.opacity,
            seed=self.config.seed,
        )

    def _update(self) -> None:
        """Step the optimiser at the rates of this step, and let the average follow."""
        state, rates = self.state, self.config.optimizer
        factor = rates.scale.at(state.step, self.config.steps)
        factor *= min(1.0, (state.step + 1) / max(rates.warmup_steps, 1)) * 0.5**state.rollbacks
        for group in state.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        state.optimizer.step()
        if state.ema_field is not None:
            keep = min(rates.ema, (state.step + 1) / (state.step + 10))
            _follow(state.ema_field, state.field, keep)

    def _shape_field(self) -> None:
        step, steps = self.state.step, self.config.steps
        share = self.config.field.active_levels.at(step, steps)
        sharpness = self.config.field.sharpness.at(step, steps)
        for field in (self.state.field, self.state.ema_field):
            if field is not None:
                field.activate_levels(share)
                field.sharpen(sharpness)


def resolve(config: Config, prior: DiffusionPrior) -> Config:
    """The configuration with what is known once the prior is loaded: its name, precision and device
    in place of auto. The prompt stays as typed."""
    chosen = {
        "device": str(prior.device),
        "prior": {"name": prior.name, "dtype": str(prior.dtype).removeprefix("torch.")},
    }
    return override(config, chosen)


def _scalars(distilled: SDSResult, opacity: Tensor, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a step tells of itself, still on its device."""
    mean_square = distilled.gradient.square().mean()
    losses = {"loss_sds": 0.5 * mean_square}
    losses |= {f"loss_{name}": term.detach() for name, term in terms.items()}
    return {
        "sds_gradient": mean_square.sqrt(),
        "opacity": opacity.mean(),
        "entropy": entropy_loss(opacity),
        "loss": torch.stack(list(losses.values())).sum(),
        **losses,
    }


@torch.no_grad()
def _follow(ema_field: Field, field: Field, keep: float) -> None:
    """ema <- keep ema + (1 - keep) field; early steps keep less, as they know less."""
    for mine, theirs in zip(ema_field.parameters(), field.parameters(), strict=True):
        mine.lerp_(theirs, 1.0 - keep)


def _diverged(
    step: int, timesteps: list[int], what: str, value: float, overflow: bool
) -> DivergedError:
    """overflow: whether it may be for want of range in float16."""
    half = "the prior may overflow in float16: set prior.dtype=bfloat16; else " if overflow else ""
    return DivergedError(
        f"training diverged in step {step + 1} (timesteps {timesteps}): {what} is {value}; "
        f"{half}lower optimizer.grid_lr or sds.guidance, or set optimizer.max_gradient_norm"
    )
