"""DreamFusion's optimisation. `train_step` is the whole algorithm; the rest serves it."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.schema import Config, override
from dreamfusion.diffusion.core import Opposed, TextEmbedding
from dreamfusion.diffusion.sds import sds
from dreamfusion.diffusion.view_prompts import (
    all_prompts,
    blended_prompts,
    opposing_prompts,
    view_prompt,
)
from dreamfusion.graphics.cameras import Cameras, generate_rays, sample_cameras
from dreamfusion.graphics.shading import Shading
from dreamfusion.nerf.background import Background, LearnedBackground
from dreamfusion.nerf.field import Field
from dreamfusion.nerf.hashgrid import HashGrid
from dreamfusion.nerf.occupancy import OccupancyGrid
from dreamfusion.nerf.operations import chosen_backends
from dreamfusion.nerf.renderer import RenderOutput, render
from dreamfusion.training.distributed import average_gradients, share
from dreamfusion.training.losses import (
    entropy_loss,
    opacity_loss,
    orientation_loss,
    smoothness_loss,
    sparsity_loss,
)
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.rng import Generators

if TYPE_CHECKING:
    from dreamfusion.diffusion.priors import DiffusionPrior, PriorCard

T = TypeVar("T")

_SMOOTHED_RAYS = 4  # one ray in so many has its normals compared with those nearby


class TrainingError(UserError):
    """A run that cannot go on."""


@dataclass
class TrainState:
    """Everything that changes during a run, and all that a checkpoint keeps.

    step: how many steps are done. average: the moving average of `field`, where the settings want
    one. generator: the run's one random stream, on the CPU.
    """

    step: int
    field: Field
    average: Field | None
    background: LearnedBackground
    occupancy: OccupancyGrid
    optimizer: torch.optim.Adam
    generator: torch.Generator

    @property
    def shown(self) -> Field:
        """The field to look at and to export: the average where there is one."""
        return self.field if self.average is None else self.average


@dataclass(frozen=True)
class Views:
    """What a step looks at: n cameras, and how they are lit and backed. On the run's device."""

    cameras: Cameras
    size: int
    shading: Shading
    light_position: Tensor
    background: Background

    def __getitem__(self, which: slice) -> Views:
        """Some of the views."""
        background = self.background
        if isinstance(background, Tensor) and background.ndim == 2:
            background = background[which]
        return dataclasses.replace(
            self,
            cameras=self.cameras[which],
            light_position=self.light_position[which],
            background=background,
        )


@dataclass(frozen=True)
class StepMetrics:
    """What a step tells of itself.

    timesteps: of each view. sds_norm: RMS of w(t) (e_hat - e) over all pixels. gradient_norm: of
    all parameters, before clipping. opacity: mean share of the picture that is covered. entropy:
    how undecided opacity is, in bits. size: of the pictures, pixels.
    """

    step: int
    seconds: float
    shading: str
    size: int
    timesteps: list[int]
    guidance: float
    sds_norm: float
    gradient_norm: float
    opacity: float
    entropy: float


def new_state(config: Config, device: str) -> TrainState:
    """The state before the first step; everything random in it comes from `config.seed`.

    Raises AcceleratorError where the configuration names a backend that cannot be used.
    """
    chosen_backends(config.field, config.render, device)
    generator = torch.Generator().manual_seed(config.seed)
    encoding = HashGrid(
        n_levels=config.field.levels,
        n_features=config.field.features,
        log2_table_size=config.field.log2_table_size,
        base_resolution=config.field.base_resolution,
        max_resolution=config.field.max_resolution,
        backend=config.field.backend,
        generator=generator,
    )
    field = Field(
        encoding=encoding,
        n_hidden=config.field.hidden,
        density_activation=config.field.density_activation,
        blob=config.field.blob,
        blob_scale=config.field.blob_scale,
        blob_radius=config.field.blob_radius,
        normal_epsilon=config.field.normal_epsilon,
        generator=generator,
    ).to(device)
    background = LearnedBackground(generator=generator).to(device)
    occupancy = OccupancyGrid(
        resolution=config.occupancy.resolution,
        threshold=config.occupancy.threshold,
        decay=config.occupancy.decay,
    ).to(device)
    occupancy.update(field.density, generator)
    rates = config.optimizer
    optimizer = torch.optim.Adam(
        [
            {"params": list(field.encoding.parameters()), "base_lr": rates.grid_lr},
            {"params": list(field.mlp.parameters()), "base_lr": rates.network_lr},
            {"params": list(background.parameters()), "base_lr": rates.background_lr},
        ],
        lr=0.0,
        betas=(rates.beta1, rates.beta2),
        eps=rates.epsilon,
        fused=not device.startswith("mps"),
    )
    average = copy.deepcopy(field).requires_grad_(False) if rates.ema > 0 else None
    return TrainState(0, field, average, background, occupancy, optimizer, generator)


def train_step(state: TrainState, prior: DiffusionPrior, config: Config) -> StepMetrics:
    """One step of DreamFusion: look, render, distil, regularise, update.

    Raises TrainingError where a gradient is not finite, before it touches the parameters.
    """
    started = time.perf_counter()
    _release_levels(state, config, state.step)
    if state.step % config.occupancy.update_every == 0 and state.step > 0:
        state.occupancy.update(state.field.density, state.generator)

    loss, metrics = compute_loss(state, prior, config, state.step, state.generator)
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    average_gradients(p for group in state.optimizer.param_groups for p in group["params"])
    gradient_norm = _update(state, config, metrics["timesteps"])

    state.step += 1
    return StepMetrics(
        step=state.step,
        seconds=time.perf_counter() - started,
        gradient_norm=gradient_norm,
        **metrics,
    )


def compute_loss(
    state: TrainState,
    prior: DiffusionPrior,
    config: Config,
    step: int,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, Any]]:
    """The loss of `step` and what there is to tell of it. Changes nothing but the generator.

    Of several processes each has its share of the views, and tells of these. The distillation
    term is a mean over views, pixels and channels, so that the regularisers weigh the same against
    it at any resolution of the prior.
    """
    mine = share(config.camera.views)
    views = sample_views(state, config, step, generator)[mine]
    seeds = torch.randint(2**62, (config.camera.views,), generator=generator)[mine]
    own = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
    out = render_views(state, config, views, own)
    text, opposed = describe_views(prior, config, views)
    unconditional = prior.encode_text([config.prior.negative_prompt])
    guidance = config.sds.guidance.at(step, config.steps)
    distilled = sds(
        prior,
        out.rgb.movedim(-1, 1),
        text,
        unconditional,
        guidance=guidance,
        t_range=(
            config.sds.t_min.at(step, config.steps),
            config.sds.t_max.at(step, config.steps),
        ),
        weighting=config.sds.weighting,
        opposed=opposed,
        generator=own,
    )
    sds_norm = float(distilled.gradient.square().mean().sqrt())
    if not sds_norm < float("inf"):
        raise _diverged(step, distilled.timesteps.tolist(), "the prior's gradient", sds_norm)
    entropy = entropy_loss(out.opacity)
    loss = distilled.loss / distilled.gradient.numel()
    loss = loss + regularisation(state.field, config, out, entropy, step, generator)
    return loss, {
        "shading": views.shading,
        "size": views.size,
        "timesteps": distilled.timesteps.tolist(),
        "guidance": guidance,
        "sds_norm": sds_norm,
        "opacity": float(out.opacity.detach().mean()),
        "entropy": float(entropy.detach()),
    }


def sample_views(state: TrainState, config: Config, step: int, generator: torch.Generator) -> Views:
    """Random cameras, one shading for all of them, lights near the cameras, backgrounds.

    A light's direction is the camera's plus normal noise (DreamFusion, A.2).
    """
    n, camera, shading = config.camera.views, config.camera, config.shading
    device = state.occupancy.density.device
    cameras = sample_cameras(
        n,
        elevation_deg=_known(camera.elevation_deg),
        distance=_known(camera.distance),
        fov_y_deg=camera.fov_y_deg,
        focal_length=camera.focal_length,
        position_jitter=camera.position_jitter,
        look_at_jitter=camera.look_at_jitter,
        up_jitter=camera.up_jitter,
        generator=generator,
    )
    towards = torch.nn.functional.normalize(cameras.positions, dim=-1)
    towards = towards + _known(shading.light_spread) * torch.randn(n, 3, generator=generator)
    low, high = _known(shading.light_distance)
    distance = low + (high - low) * torch.rand(n, 1, generator=generator)
    light_position = torch.nn.functional.normalize(towards, dim=-1) * distance

    lit, bare, plain = torch.rand(3, generator=generator).tolist()
    kind: Shading = "albedo"
    if lit < shading.lambertian.at(step, config.steps):
        bare_share = shading.textureless.at(step, config.steps)
        kind = "textureless" if bare < bare_share else "lambertian"
    low, high = _known(config.background.brightness)
    colors = low + (high - low) * torch.rand(n, 3, generator=generator)
    background: Background = colors.to(device)
    if config.background.kind == "fixed":
        background = torch.tensor(config.background.color, device=device)
    elif config.background.kind == "learned" and plain >= config.background.plain_share:
        background = state.background
    return Views(
        cameras.to(device), render_size(config, step), kind, light_position.to(device), background
    )


def describe_views(
    prior: DiffusionPrior, config: Config, views: Views
) -> tuple[TextEmbedding, list[Opposed]]:
    """What the prior is told of each view, and what each should not show (Perp-Neg)."""
    vocabulary, how = prior.card.vocabulary, config.prior
    prompt = vocabulary.canonical(config.prompt)
    places = list(
        zip(views.cameras.azimuth_deg.tolist(), views.cameras.elevation_deg.tolist(), strict=True)
    )
    mixed = [[(prompt, 1.0)]] * len(places)
    if how.view_prompts == "nearest":
        mixed = [
            [(view_prompt(vocabulary, prompt, *place, views.shading), 1.0)] for place in places
        ]
    elif how.view_prompts == "blended":
        mixed = [blended_prompts(vocabulary, prompt, *place, views.shading) for place in places]
    # Of at most two texts a view, the share of the second.
    text = prior.encode_text([texts[0][0] for texts in mixed]).lerp(
        prior.encode_text([texts[-1][0] for texts in mixed]),
        torch.tensor([texts[-1][1] if len(texts) > 1 else 0.0 for texts in mixed]),
    )
    if how.perp_neg == 0.0 or how.view_prompts == "none":
        return text, []
    others = [opposing_prompts(vocabulary, prompt, *place, views.shading) for place in places]
    opposed = []
    for i in range(max(map(len, others))):
        # A view with fewer other sides opposes its own text, with no weight.
        pairs = [
            found[i] if i < len(found) else (own[0][0], 0.0)
            for found, own in zip(others, mixed, strict=True)
        ]
        weight = torch.tensor([how.perp_neg * weight for _, weight in pairs])
        opposed.append(Opposed(prior.encode_text([text for text, _ in pairs]), weight))
    return text, opposed


def texts_of(card: PriorCard, config: Config) -> list[str]:
    """Every text that a run will ask its prior about, for `DiffusionPrior.prepare`."""
    prompt = card.vocabulary.canonical(config.prompt)
    seen = [prompt] if config.prior.view_prompts == "none" else all_prompts(card.vocabulary, prompt)
    return [*seen, config.prior.negative_prompt]


def render_size(config: Config, step: int) -> int:
    """Height and width of the pictures at `step`, a multiple of 8 pixels."""
    return max(8, round(config.render.resolution.at(step, config.steps) / 8) * 8)


def render_views(
    state: TrainState, config: Config, views: Views, generator: Generators
) -> RenderOutput:
    """Render a step's views, differentiably: pixels are (n, size, size, ...).

    generator: jitters the samples; one, or one for each view.
    """
    ambient = _known(config.shading.ambient)
    return render(
        state.field,
        state.occupancy,
        generate_rays(views.cameras, views.size, views.size),
        background=views.background,
        shading=views.shading,
        light_position=views.light_position,
        ambient=ambient,
        diffuse=1.0 - ambient,
        generator=generator,
        step_size=config.render.step_size,
        min_transmittance=config.render.min_transmittance,
        backend=config.render.backend,
    )


def regularisation(
    field: Field,
    config: Config,
    out: RenderOutput,
    entropy: Tensor,
    step: int,
    generator: torch.Generator,
) -> Tensor:
    """The weighted sum of all regularisers at `step`, a scalar. Those of weight 0 cost nothing."""
    schedules = config.losses
    n_rays = out.opacity.numel()

    def weight(schedule: Schedule) -> float:
        return schedule.at(step, config.steps)

    loss = weight(schedules.entropy) * entropy
    if weight(schedules.opacity) > 0:
        loss = loss + weight(schedules.opacity) * opacity_loss(out.opacity)
    if weight(schedules.sparsity) > 0:
        loss = loss + weight(schedules.sparsity) * sparsity_loss(out.density, n_rays=n_rays)
    if out.surface is None:
        return loss
    surface = out.surface
    if weight(schedules.orientation) > 0:
        loss = loss + weight(schedules.orientation) * orientation_loss(
            surface.weights, surface.normals, surface.directions, n_rays=n_rays
        )
    if weight(schedules.smoothness) > 0:
        # On one ray in a few, which costs that much less and is the same in the mean; and in one
        # direction for all samples, a finite difference apart.
        first = torch.randint(_SMOOTHED_RAYS, (), generator=generator).item()
        picked = out.samples.ray_index[surface.index] % _SMOOTHED_RAYS == first
        shift = torch.nn.functional.normalize(torch.randn(3, generator=generator), dim=0)
        points = out.samples.positions[surface.index[picked]]
        nearby = field.normals(points + 2 * field.normal_epsilon * shift.to(points))
        loss = loss + weight(schedules.smoothness) * smoothness_loss(
            surface.weights[picked],
            surface.normals[picked],
            nearby,
            n_rays=n_rays / _SMOOTHED_RAYS,
        )
    return loss


def train(
    state: TrainState,
    prior: DiffusionPrior,
    config: Config,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[StepMetrics]:
    """Steps until `config.steps` are done or `stop` says so, which is asked between steps."""
    while state.step < config.steps and not stop():
        yield train_step(state, prior, config)


def estimate_seconds(state: TrainState, prior: DiffusionPrior, config: Config) -> float:
    """How long the steps that remain will take, from trying the first and the last of them.

    Nothing changes by it but caches: the state, its random stream included, stays as it is.
    """
    first, last = state.step, config.steps - 1
    if last < first:
        return 0.0
    generator = torch.Generator()
    generator.set_state(state.generator.get_state())

    def cost(step: int) -> float:
        started = time.perf_counter()
        _release_levels(state, config, step)
        compute_loss(state, prior, config, step, generator)[0].backward()
        return time.perf_counter() - started

    # Each size has a first try that compiles and warms up; lit and unlit steps differ in cost.
    _, *early = [cost(first) for _ in range(3)]
    _, *late = [cost(last) for _ in range(5)]
    state.optimizer.zero_grad(set_to_none=True)
    _release_levels(state, config, first)
    small, large = sum(early) / len(early), sum(late) / len(late)
    sizes = [render_size(config, step) ** 2 for step in range(first, last + 1)]
    if sizes[0] == sizes[-1]:
        return large * len(sizes)
    slope = (large - small) / (sizes[-1] - sizes[0])
    return sum(max(small + slope * (size - sizes[0]), 0.0) for size in sizes)


def resolve(config: Config, prior: DiffusionPrior, device: str) -> Config:
    """The configuration with every choice made: what the prior knows of cameras, lights and
    backgrounds takes the place of null, and names that of auto. The prompt stays as typed."""
    ranges, light, shading = prior.card.camera, prior.card.light, config.shading
    chosen = {
        "device": device,
        "prior": {"name": prior.name, "dtype": str(prior.dtype).removeprefix("torch.")},
        "camera": {
            "elevation_deg": config.camera.elevation_deg or ranges.elevation_deg,
            "distance": config.camera.distance or ranges.distance,
            "fov_y_deg": (
                config.camera.fov_y_deg
                if config.camera.fov_y_deg or config.camera.focal_length
                else ranges.fov_y_deg
            ),
        },
        "shading": {
            "ambient": light.ambient if shading.ambient is None else shading.ambient,
            "light_spread": (
                light.direction_std if shading.light_spread is None else shading.light_spread
            ),
            "light_distance": shading.light_distance or light.distance,
        },
        "background": {"brightness": config.background.brightness or prior.card.background},
    }
    return override(config, chosen)


def _update(state: TrainState, config: Config, timesteps: list[int]) -> float:
    """Step the optimiser; returns the norm of all gradients before clipping. Or TrainingError."""
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    limit = config.optimizer.max_gradient_norm or float("inf")
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    if not norm < float("inf"):
        raise _diverged(state.step, timesteps, "the scene's gradient", norm)
    rates = config.optimizer
    factor = rates.scale.at(state.step, config.steps)
    factor *= min(1.0, (state.step + 1) / max(rates.warmup_steps, 1))
    for group in state.optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    state.optimizer.step()
    if state.average is not None:
        _follow(state.average, state.field, min(rates.ema, (state.step + 1) / (state.step + 10)))
    return norm


@torch.no_grad()
def _follow(average: Field, field: Field, keep: float) -> None:
    """average <- keep average + (1 - keep) field; early steps keep less, as they know less."""
    for mine, theirs in zip(average.parameters(), field.parameters(), strict=True):
        mine.lerp_(theirs, 1.0 - keep)


def _release_levels(state: TrainState, config: Config, step: int) -> None:
    share = config.field.released.at(step, config.steps)
    state.field.release(share)
    if state.average is not None:
        state.average.release(share)


def _diverged(step: int, timesteps: list[int], what: str, norm: float) -> TrainingError:
    return TrainingError(
        f"training diverged in step {step + 1} (timesteps {timesteps}): the norm of {what} is "
        f"{norm}; lower optimizer.grid_lr or sds.guidance, or set optimizer.max_gradient_norm"
    )


def _known(value: T | None) -> T:
    if value is None:
        raise ValueError("the configuration is not resolved: see trainer.resolve")
    return value
