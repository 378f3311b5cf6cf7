"""Settings of the estimator `csd`. No torch: `build` imports the code."""

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
class CSDSettings(ScoreSettings):
    """Classifier Score Distillation: guidance alone, away from nothing or from a negative text."""

    paper: ClassVar[str] = "Yu et al. 2024, Text-to-3D with Classifier Score Distillation"
    cost: ClassVar[str] = "2; with a negative text 3"
    name: str = setting("csd", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(1.0))
    negative: str = setting("", "what the images should not show")
    negative_share: Schedule = setting(
        Schedule.constant(0.0),
        "how much of the way leads away from the negative text, and not from no text: -u of the "
        "paper, whose v is -1 - u",
        low=0,
        high=1,
    )

    @property
    def uses_negative(self) -> bool:
        """Whether the negative text is ever asked for, which costs a third prediction."""
        return not (self.negative_share.is_constant and self.negative_share.start == 0.0)

    def texts(self) -> Mapping[str, Text]:
        return {"negative": Text(self.negative, views=False)} if self.uses_negative else {}

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.csd.estimator import CSDEstimator

        return CSDEstimator(self, prior, seed)
