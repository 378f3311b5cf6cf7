"""Settings of the estimator `asd`. No torch: `build` imports the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class ASDSettings(ScoreSettings):
    """Asynchronous Score Distillation: VSD whose network of renderings is the prior itself, at a
    higher noise level."""

    paper: ClassVar[str] = "Ma et al. 2024, ScaleDreamer"
    cost: ClassVar[str] = "3"
    name: str = setting("asd", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    shift: float = setting(
        0.1, "greatest shift of the level, as a fraction of its distance from t_min", low=0, high=1
    )

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.asd.estimator import ASDEstimator

        return ASDEstimator(self, prior, seed)
