"""Settings of the estimator `sds`. No torch: `build` imports the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dreamfusion.config.sections import setting
from dreamfusion.distillation.settings import ScoreSettings

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class SDSSettings(ScoreSettings):
    """Score Distillation Sampling: w(t) (e_hat - e), under classifier-free guidance."""

    name: str = setting("sds", "the way to distil")

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.sds.estimator import SDSEstimator

        return SDSEstimator(self, prior, seed)
