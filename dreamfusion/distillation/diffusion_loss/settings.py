"""Settings of the estimator `diffusion_loss`. No torch: `build` imports the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class DiffusionLossSettings(ScoreSettings):
    """The loss that diffusion models are trained with, differentiated through the network: what
    the paper compares SDS with."""

    paper: ClassVar[str] = "Poole et al. 2023, DreamFusion (its comparison)"
    cost: ClassVar[str] = "1 and a backward pass; with guidance 2"
    name: str = setting("diffusion_loss", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(1.0))

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.diffusion_loss.estimator import DiffusionLossEstimator

        return DiffusionLossEstimator(self, prior, seed)
