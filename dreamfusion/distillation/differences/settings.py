"""Settings of estimators along differences of predictions. No torch: see `code`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings, Text


@dataclass(frozen=True)
class CSDSettings(ScoreSettings):
    """Classifier Score Distillation: guidance only, away from no text or from a negative text."""

    paper: ClassVar[str] = "Yu et al. 2024, Text-to-3D with Classifier Score Distillation"
    code: ClassVar[str] = "dreamfusion.distillation.differences.estimators:CSDEstimator"
    name: str = setting("csd", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(1.0))
    negative: str = setting("", "what the images should not show")
    negative_share: Schedule = setting(
        Schedule.constant(0.0),
        "share of guidance away from the negative text, instead of from no text: -u of the paper, "
        "whose v is -1 - u",
        low=0,
        high=1,
    )

    @property
    def evaluations(self) -> float:
        return 3.0 if self.uses_negative else 2.0

    @property
    def uses_negative(self) -> bool:
        """Whether the negative text is used in any step, which costs a third prediction."""
        return not (self.negative_share.is_constant and self.negative_share.start == 0.0)

    def texts(self) -> Mapping[str, Text]:
        return {"negative": Text(self.negative, views=False)} if self.uses_negative else {}


@dataclass(frozen=True)
class NFSDSettings(ScoreSettings):
    """Noise-Free Score Distillation: guidance, and a noise-free correction towards the domain."""

    paper: ClassVar[str] = "Katzir et al. 2024, Noise-Free Score Distillation"
    code: ClassVar[str] = "dreamfusion.distillation.differences.estimators:NFSDEstimator"
    evaluations = 3.0
    name: str = setting("nfsd", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    negative: str = setting(
        "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, "
        "low-resolution, gloomy",
        "description of images outside the domain",
    )
    clean_below: float = setting(
        0.2, "noise level, as a fraction, below which predictions contain no added noise", low=0
    )

    def texts(self) -> Mapping[str, Text]:
        return {"negative": Text(self.negative, views=False)}


@dataclass(frozen=True)
class BridgeSettings(ScoreSettings):
    """SDS-Bridge: SDS, then the direction from a description of flaws to the wanted text."""

    paper: ClassVar[str] = "McAllister et al. 2024, Rethinking Score Distillation as a Bridge"
    code: ClassVar[str] = "dreamfusion.distillation.differences.estimators:BridgeEstimator"
    name: str = setting("bridge", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(100.0))
    switch: float = setting(
        0.5, "fraction of the steps at which the second stage starts", low=0, high=1
    )
    wanted: str = setting("{prompt}, detailed high resolution, high quality, sharp", "target")
    flawed: str = setting(
        "{prompt}, oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, "
        "noisy, malformed",
        "description of the images at that step",
    )

    def texts(self) -> Mapping[str, Text]:
        return {"wanted": Text(self.wanted), "flawed": Text(self.flawed)}


@dataclass(frozen=True)
class ASDSettings(ScoreSettings):
    """Asynchronous Score Distillation: VSD with the prior itself, at a higher noise level, instead
    of a trained network."""

    paper: ClassVar[str] = "Ma et al. 2024, ScaleDreamer"
    code: ClassVar[str] = "dreamfusion.distillation.differences.estimators:ASDEstimator"
    evaluations = 3.0
    name: str = setting("asd", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    shift: float = setting(
        0.1, "largest shift of the level, as a fraction of its distance from t_min", low=0, high=1
    )


@dataclass(frozen=True)
class DDSSettings(ScoreSettings):
    """Delta Denoising Score, for edits: the direction from the source's prompt to the prompt."""

    paper: ClassVar[str] = "Hertz et al. 2023, Delta Denoising Score"
    code: ClassVar[str] = "dreamfusion.distillation.differences.estimators:DDSEstimator"
    evaluations = 4.0
    name: str = setting("dds", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    t_min: Schedule = default(ScoreSettings, "t_min", Schedule.constant(0.05))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule.constant(0.95))
    source: str = setting("", "prompt of the scene before the edit")

    def texts(self) -> Mapping[str, Text]:
        return {"source": Text(self.source)}
