"""Scenes of given fields."""

from __future__ import annotations

from torch import nn

from dreamfusion.config.schedules import Schedule
from dreamfusion.scenes.nerf.background import LearnedBackground
from dreamfusion.scenes.nerf.occupancy import OccupancyGrid
from dreamfusion.scenes.nerf.renderer import RadianceField
from dreamfusion.scenes.nerf.scene import NerfScene
from dreamfusion.scenes.nerf.settings import MarchingConfig, NerfSettings


class FieldScene(NerfScene):
    """A NerfScene of any field, without an optimiser. step_size: of its samples."""

    def __init__(
        self, field: RadianceField, occupancy: OccupancyGrid, *, step_size: float | None = None
    ) -> None:
        nn.Module.__init__(self)
        marching = MarchingConfig()
        if step_size is not None:
            marching = MarchingConfig(step_size=Schedule.constant(step_size))
        self.settings = NerfSettings(marching=marching)
        self.step_size = marching.step_size.start
        self.field, self.ema_field = field, None
        self.occupancy, self.background = occupancy, LearnedBackground()
