"""Settings of the estimator `clip`. No torch: `build` imports the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import setting
from dreamfusion.distillation.settings import EstimatorSettings

if TYPE_CHECKING:
    from dreamfusion.distillation.base import Estimator


@dataclass(frozen=True)
class CLIPSettings(EstimatorSettings):
    """CLIP guidance, without diffusion: makes embeddings of images similar to the text's."""

    paper: ClassVar[str] = "Jain et al. 2022, Dream Fields"
    cost: ClassVar[str] = "of CLIP, one for each crop"
    name: str = setting("clip", "name of the estimator")
    crops: int = setting(4, "random crops per image", low=1, high=64)
    crop_size: float = setting(
        0.7, "smallest side of a crop, as a share of the image", low=0.1, high=1
    )
    transmittance: Schedule = setting(
        Schedule(0.4, 0.88, finish=0.1), "share of empty pixels above which the loss is constant",
        low=0, high=1,
    )  # fmt: skip
    transmittance_weight: float = setting(0.5, "weight of the loss that makes pixels empty", low=0)

    def build(self, prior: Any, *, seed: int) -> Estimator:
        from dreamfusion.distillation.clip.estimator import CLIPEstimator

        return CLIPEstimator(self, prior)
