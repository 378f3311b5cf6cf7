"""Settings of SDS and similar estimators. No torch: see `code`."""

from dataclasses import dataclass
from typing import ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import Range, ScoreSettings, Weighting


@dataclass(frozen=True)
class SDSSettings(ScoreSettings):
    """Score Distillation Sampling: w(t) (e_hat - e), under classifier-free guidance."""

    paper: ClassVar[str] = "Poole et al. 2023, DreamFusion"
    code: ClassVar[str] = "dreamfusion.distillation.sds.estimators:SDSEstimator"
    name: str = setting("sds", "name of the estimator")


@dataclass(frozen=True)
class SJCSettings(SDSSettings):
    """Score Jacobian Chaining (Wang et al. 2023): (x - x_hat) / sigma of an image with noise of
    sigma / alpha, which is e_hat - e: SDS with w = 1, at all levels."""

    paper: ClassVar[str] = "Wang et al. 2023, Score Jacobian Chaining"
    name: str = setting("sjc", "name of the estimator")
    guidance: Schedule = default(SDSSettings, "guidance", Schedule.constant(101.0))
    t_min: Schedule = default(SDSSettings, "t_min", Schedule.constant(0.01))
    t_max: Schedule = default(SDSSettings, "t_max", Schedule.constant(0.97))
    weighting: Weighting = default(SDSSettings, "weighting", "uniform")


@dataclass(frozen=True)
class RFDSSettings(SDSSettings):
    """Rectified Flow Distillation Sampling (Yang et al. 2024): v_hat - v, the velocity's error."""

    paper: ClassVar[str] = "Yang et al. 2024, Text-to-Image Rectified Flow as Plug-and-Play Priors"
    name: str = setting("rfds", "name of the estimator")
    guidance: Schedule = default(SDSSettings, "guidance", Schedule.constant(100.0))
    t_min: Schedule = default(SDSSettings, "t_min", Schedule.constant(0.3))
    t_max: Schedule = default(SDSSettings, "t_max", Schedule.constant(0.98))
    weighting: Weighting = default(SDSSettings, "weighting", "velocity")


@dataclass(frozen=True)
class CFDSettings(SDSSettings):
    """Consistent Flow Distillation (Yan et al. 2025): SDS with noise anchored to the surface that
    changes slowly, at one falling noise level per step."""

    paper: ClassVar[str] = "Yan et al. 2025, Consistent Flow Distillation"
    name: str = setting("cfd", "name of the estimator")
    guidance: Schedule = default(SDSSettings, "guidance", Schedule.constant(70.0))
    t_min: Schedule = default(SDSSettings, "t_min", Schedule(0.98, 0.02))
    t_max: Schedule = default(SDSSettings, "t_max", Schedule(0.98, 0.02))
    surface_noise: Range | None = default(SDSSettings, "surface_noise", (0.0, 1.0))
    noise_refresh: float = default(SDSSettings, "noise_refresh", 1e-4)


@dataclass(frozen=True)
class HiFASettings(ScoreSettings):
    """HiFA: SDS and the difference of images and decoded prediction; t falls like a square root."""

    paper: ClassVar[str] = "Zhu et al. 2024, HiFA"
    code: ClassVar[str] = "dreamfusion.distillation.sds.estimators:HiFAEstimator"
    name: str = setting("hifa", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(100.0))
    t_min: Schedule = default(ScoreSettings, "t_min", Schedule(0.98, 0.3, shape="sqrt"))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule(0.98, 0.3, shape="sqrt"))
    image_weight: float = setting(0.01, "weight of the loss on images", low=0)


@dataclass(frozen=True)
class DiffusionLossSettings(ScoreSettings):
    """The training loss of diffusion models, differentiated through the network, with which the
    paper compares SDS."""

    paper: ClassVar[str] = "Poole et al. 2023, DreamFusion (its comparison)"
    code: ClassVar[str] = "dreamfusion.distillation.sds.estimators:DiffusionLossEstimator"
    name: str = setting("diffusion_loss", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(1.0))

    @property
    def evaluations(self) -> float:
        return 3.0 if self.guidance == Schedule.constant(1.0) else 6.0
