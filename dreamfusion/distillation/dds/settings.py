"""Settings of the estimator `dds`. No torch: `build` imports the code."""

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
class DDSSettings(ScoreSettings):
    """Delta Denoising Score, for edits: what the prompt asks for beyond what a source image was."""

    paper: ClassVar[str] = "Hertz et al. 2023, Delta Denoising Score"
    cost: ClassVar[str] = "4"
    name: str = setting("dds", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    t_min: Schedule = default(ScoreSettings, "t_min", Schedule.constant(0.05))
    t_max: Schedule = default(ScoreSettings, "t_max", Schedule.constant(0.95))
    source: str = setting("", "the prompt that the edited scene was made from")

    def texts(self) -> Mapping[str, Text]:
        return {"source": Text(self.source)}

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.dds.estimator import DDSEstimator

        return DDSEstimator(self, prior, seed)
