"""Settings of the estimator `sdi`. No torch: `build` imports the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class SDISettings(ScoreSettings):
    """Score Distillation via Inversion: SDS whose noise is what DDIM inverts the image to."""

    paper: ClassVar[str] = "Lukoianov et al. 2024, Score Distillation via Reparametrized DDIM"
    cost: ClassVar[str] = "2 to 22, with the noise level"
    name: str = setting("sdi", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(8.5))
    t_min: Schedule = default(ScoreSettings, "t_min", Schedule(0.98, 0.25))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule(0.98, 0.25))
    inversion_guidance: float = setting(-6.5, "guidance s of the inversion")
    inversion_steps: int = setting(
        10, "DDIM steps from the image to the highest level; fewer to a lower one", low=1, high=100
    )
    inversion_noise: float = setting(
        0.3, "share (eta) of a DDIM step's noise that is added to what it inverts", low=0, high=1
    )

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.sdi.estimator import SDIEstimator

        return SDIEstimator(self, prior, seed)
