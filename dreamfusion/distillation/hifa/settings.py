"""Settings of the estimator `hifa`. No torch: `build` imports the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class HiFASettings(ScoreSettings):
    """HiFA: SDS and the difference of the images from the decoded prediction, t falling as a
    square root."""

    paper: ClassVar[str] = "Zhu et al. 2024, HiFA"
    cost: ClassVar[str] = "2 and the decoder"
    name: str = setting("hifa", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(100.0))
    t_min: Schedule = default(ScoreSettings, "t_min", Schedule(0.98, 0.3, shape="sqrt"))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule(0.98, 0.3, shape="sqrt"))
    image_weight: float = setting(0.01, "of the images' loss", low=0)

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.hifa.estimator import HiFAEstimator

        return HiFAEstimator(self, prior, seed)
