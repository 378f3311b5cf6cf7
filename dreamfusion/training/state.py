"""What changes during a run, and how it begins."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from dreamfusion.config.schema import Config
from dreamfusion.scenes.nerf.background import LearnedBackground
from dreamfusion.scenes.nerf.field import Field
from dreamfusion.scenes.nerf.hashgrid import HashGrid
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.operations import chosen_backends
from dreamfusion.scenes.nerf.scene import Scene
from dreamfusion.utils.threads import fixed_order


@dataclass
class TrainState:
    """Everything that changes during a run, and all that a checkpoint keeps.

    step: how many steps are done. ema_field: the moving average of `field`, where the settings want
    one. generator: the run's one random stream, on the CPU. rollbacks: how often the run went back
    to an earlier step because numbers were not finite; each halves the learning rates.
    """

    step: int
    field: Field
    ema_field: Field | None
    background: LearnedBackground
    occupancy: OccupancyGrid
    optimizer: torch.optim.Adam
    generator: torch.Generator
    rollbacks: int = 0

    @property
    def scene(self) -> Scene:
        """The scene that is trained."""
        return Scene(self.field, self.occupancy, self.background)

    @property
    def shown(self) -> Scene:
        """The scene to look at and to export: with the averaged field where there is one."""
        field = self.field if self.ema_field is None else self.ema_field
        return Scene(field, self.occupancy, self.background)


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
    with fixed_order():
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
    ema_field = copy.deepcopy(field).requires_grad_(False) if rates.ema > 0 else None
    return TrainState(0, field, ema_field, background, occupancy, optimizer, generator)
