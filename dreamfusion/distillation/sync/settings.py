"""Settings of the estimator `sync`. No torch: see `code`."""

from dataclasses import dataclass
from typing import ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings


@dataclass(frozen=True)
class SyncSettings(ScoreSettings):
    """Predicts the clean images of some views once, fits the scene to them for several steps, and
    repeats this at lower noise levels."""

    paper: ClassVar[str] = "close to IM-3D, Melas-Kyriazi et al. 2024"
    code: ClassVar[str] = "dreamfusion.distillation.sync.estimator:SyncEstimator"
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
