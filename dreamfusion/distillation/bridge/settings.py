"""Settings of the estimator `bridge`. No torch: `build` imports the code."""

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
class BridgeSettings(ScoreSettings):
    """SDS-Bridge: SDS first, then from a description of the images' flaws to the wanted text."""

    paper: ClassVar[str] = "McAllister et al. 2024, Rethinking Score Distillation as a Bridge"
    cost: ClassVar[str] = "2"
    name: str = setting("bridge", "the way to distil")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(100.0))
    switch: float = setting(0.5, "fraction of the steps at which it changes", low=0, high=1)
    wanted: str = setting("{prompt}, detailed high resolution, high quality, sharp", "target")
    flawed: str = setting(
        "{prompt}, oversaturated, smooth, pixelated, cartoon, foggy, hazy, blurry, bad structure, "
        "noisy, malformed",
        "what the images look like by then",
    )

    def texts(self) -> Mapping[str, Text]:
        return {"wanted": Text(self.wanted), "flawed": Text(self.flawed)}

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.bridge.estimator import BridgeEstimator

        return BridgeEstimator(self, prior, seed)
