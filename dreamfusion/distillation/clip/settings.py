"""Settings of the estimator `clip`. No torch: see `code`."""

from dataclasses import dataclass
from typing import ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import setting
from dreamfusion.distillation.settings import EstimatorSettings


@dataclass(frozen=True)
class CLIPSettings(EstimatorSettings):
    """CLIP guidance, without diffusion: makes embeddings of images similar to the text's."""

    paper: ClassVar[str] = "Jain et al. 2022, Dream Fields"
    code: ClassVar[str] = "dreamfusion.distillation.clip.estimator:CLIPEstimator"
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
