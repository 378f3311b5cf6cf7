"""Settings of the estimator `sync`. No torch: `build` imports the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class SyncSettings(ScoreSettings):
    """Predicts the clean images of some views once, fits the scene to them for several steps, and
    repeats this at lower noise levels."""

    paper: ClassVar[str] = "close to IM-3D, Melas-Kyriazi et al. 2024"
    cost: ClassVar[str] = "2 in one of `fit_steps` steps"

    name: str = setting("sync", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    t_min: Schedule = default(ScoreSettings, "t_min", Schedule(0.98, 0.1))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule(0.98, 0.1))
    fit_steps: int = setting(10, "steps that fit the scene to one prediction", low=1, high=1000)

    @property
    def evaluations(self) -> float:
        return 2.0 / self.fit_steps

    @property
    def hold(self) -> int:
        return self.fit_steps

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.sync.estimator import SyncEstimator

        return SyncEstimator(self, prior, seed)
