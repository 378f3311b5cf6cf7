"""Settings of the estimator `nfsd`. No torch: `build` imports the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings, Text

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class NFSDSettings(ScoreSettings):
    """Noise-Free Score Distillation: guidance, and a correction of the domain without noise."""

    paper: ClassVar[str] = "Katzir et al. 2024, Noise-Free Score Distillation"
    cost: ClassVar[str] = "3"
    name: str = setting("nfsd", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    negative: str = setting(
        "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, "
        "low-resolution, gloomy",
        "text of images that are not of the domain",
    )
    clean_below: float = setting(
        0.2, "noise level, as a fraction, below which a prediction has no noise of its own", low=0
    )

    def texts(self) -> Mapping[str, Text]:
        return {"negative": Text(self.negative, views=False)}

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.nfsd.estimator import NFSDEstimator

        return NFSDEstimator(self, prior, seed)
