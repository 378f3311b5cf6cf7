"""Settings of the estimator `ism`. No torch: `build` imports the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings, Weighting

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class ISMSettings(ScoreSettings):
    """Interval Score Matching: the difference of predictions at two levels on one DDIM
    trajectory."""

    paper: ClassVar[str] = "Liang et al. 2024, LucidDreamer"
    cost: ClassVar[str] = "7"
    name: str = setting("ism", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule(0.98, 0.5, finish=0.3))
    weighting: Weighting = default(ScoreSettings, "weighting", "inverse_sqrt_snr")
    interval: Schedule = setting(
        Schedule(0.1, 0.08, finish=0.3), "t - s, as a fraction of all levels", low=0, high=1
    )
    inversion_steps: int = setting(4, "DDIM steps from the image to s", low=1, high=100)

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.ism.estimator import ISMEstimator

        return ISMEstimator(self, prior, seed)
