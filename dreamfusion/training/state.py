"""The state of an optimisation, its initial value, and the views of a step."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dreamfusion.config.schema import Config
from dreamfusion.distillation.base import Estimator
from dreamfusion.graphics.cameras import sample_cameras
from dreamfusion.graphics.shading import Lighting, Shading
from dreamfusion.scenes.base import Scene, Views
from dreamfusion.utils.state import Progress

FORGET_AFTER = 500  # steps


@dataclass
class TrainState:
    """The complete state of an optimisation, as saved in checkpoints.

    step: number of steps done. generator: the run's only random number generator, on the CPU.
    rollbacks: number of returns to an earlier step because numbers were not finite; each one halves
    the learning rates. rolled_back_at: step of the last rollback; `rollbacks` is reset after
    FORGET_AFTER further steps.
    """

    step: int
    scene: Scene
    estimator: Estimator
    generator: torch.Generator
    rollbacks: int = 0
    rolled_back_at: int = 0

    def forget_rollbacks(self) -> None:
        """Reset the count of rollbacks after FORGET_AFTER steps, so that rare overflows in a long
        run do not add up."""
        if self.rollbacks and self.step >= self.rolled_back_at + FORGET_AFTER:
            self.rollbacks = 0


def new_state(
    config: Config, prior: Any, *, device: str | None = None, start: Scene | None = None
) -> TrainState:
    """The state before the first step, with all random numbers from `config.seed`.

    device: of the scene; None takes the prior's. start: the scene of the previous stage or run.
    Raises UserError if the prior or the start is incompatible.
    """
    device = str(prior.device) if device is None else device
    generator = torch.Generator().manual_seed(config.seed)
    scene: Scene = config.scene.build(device=device, generator=generator, start=start)
    estimator: Estimator = config.estimator.build(prior, seed=config.seed)
    return TrainState(0, scene, estimator, generator)


def sample_views(
    config: Config, progress: Progress, generator: torch.Generator, *, group_size: int = 1
) -> Views:
    """Sample cameras, one shading for all of them, lights near the cameras, and backgrounds, on the
    CPU.

    A light is in the direction of the camera's position plus normal noise, as DreamFusion's
    N(p_cam, I) (A.2), whose standard deviation is `light_spread` times the camera distance: 0.8 in
    the paper, 0.57 in threestudio. group_size: the views of a group share elevation, distance,
    field of view, light and background, at evenly spaced azimuths.
    """
    ranges = dataclasses.asdict(config.camera)
    n, shading = ranges.pop("views"), config.shading
    cameras = sample_cameras(n, **ranges, generator=generator, group_size=group_size)
    towards = torch.nn.functional.normalize(cameras.positions, dim=-1)
    towards = towards + shading.light_spread * torch.randn(n, 3, generator=generator)
    low, high = shading.light_distance
    distance = low + (high - low) * torch.rand(n, 1, generator=generator)
    light_position = torch.nn.functional.normalize(towards, dim=-1) * distance

    lit, bare, plain = torch.rand(3, generator=generator).tolist()
    kind: Shading = "albedo"
    if lit < shading.lambertian.at(*progress):
        kind = "textureless" if bare < shading.textureless.at(*progress) else "lambertian"
    low, high = config.background.brightness
    colors = low + (high - low) * torch.rand(n, 3, generator=generator)
    if group_size > 1:
        light_position, colors = (
            values[::group_size].repeat_interleave(group_size, dim=0)
            for values in (light_position, colors)
        )
    background: Tensor | None = colors
    if config.background.kind == "fixed":
        background = torch.tensor(config.background.color)
    elif config.background.kind == "learned" and plain >= config.background.plain_share:
        background = None
    size = render_size(config, progress)
    return Views(cameras, size, size, Lighting(kind, light_position, shading.ambient), background)


def render_size(config: Config, progress: Progress) -> int:
    """Height and width of the images of a step, a multiple of 8 pixels."""
    return max(8, round(config.render.resolution.at(*progress) / 8) * 8)
