"""Settings of estimators on a DDIM inversion. No torch: see `code`."""

from dataclasses import dataclass
from typing import ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings, Weighting


@dataclass(frozen=True)
class ISMSettings(ScoreSettings):
    """Interval Score Matching: the difference of predictions at two levels on a DDIM path."""

    paper: ClassVar[str] = "Liang et al. 2024, LucidDreamer"
    code: ClassVar[str] = "dreamfusion.distillation.inversion.estimators:ISMEstimator"
    name: str = setting("ism", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule(0.98, 0.5, finish=0.3))
    weighting: Weighting = default(ScoreSettings, "weighting", "inverse_sqrt_snr")
    interval: Schedule = setting(
        Schedule(0.1, 0.08, finish=0.3), "t - s, as a fraction of all levels", low=0, high=1
    )
    inversion_steps: int = setting(4, "DDIM steps from the image to s", low=1, high=100)

    @property
    def evaluations(self) -> float:
        return 3.0 + self.inversion_steps


@dataclass(frozen=True)
class SDISettings(ScoreSettings):
    """Score Distillation via Inversion: SDS with the noise of the image's DDIM inversion."""

    paper: ClassVar[str] = "Lukoianov et al. 2024, Score Distillation via Reparametrized DDIM"
    code: ClassVar[str] = "dreamfusion.distillation.inversion.estimators:SDIEstimator"
    name: str = setting("sdi", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(8.5))
    t_min: Schedule = default(ScoreSettings, "t_min", Schedule(0.98, 0.25))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule(0.98, 0.25))
    inversion_guidance: float = setting(-6.5, "guidance s of the inversion")
    inversion_steps: int = setting(
        10,
        "DDIM steps from the image to the highest level; fewer for lower levels",
        low=1,
        high=100,
    )
    inversion_noise: float = setting(
        0.3, "share (eta) of a DDIM step's noise that is added to the inversion", low=0, high=1
    )

    @property
    def evaluations(self) -> float:
        levels = [self.t_max.at(step, 100) for step in range(100)]
        return 2.0 + 2.0 * sum(self.steps_to(level) for level in levels) / len(levels)

    def steps_to(self, level: float) -> int:
        """The number of DDIM steps from the image to a noise level, a fraction."""
        return max(1, round(level * self.inversion_steps))
