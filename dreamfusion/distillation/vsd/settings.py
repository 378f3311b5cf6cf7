"""Settings of the estimator `vsd`. No torch: see `code`."""

from dataclasses import dataclass
from typing import ClassVar

from dreamfusion.config.schedules import Schedule
from dreamfusion.config.sections import default, setting
from dreamfusion.distillation.settings import ScoreSettings


@dataclass(frozen=True)
class VSDSettings(ScoreSettings):
    """Variational Score Distillation: the difference between the prior and a copy with adapters,
    which is trained on images of the scene during the run."""

    paper: ClassVar[str] = "Wang et al. 2023, ProlificDreamer"
    code: ClassVar[str] = "dreamfusion.distillation.vsd.estimator:VSDEstimator"
    evaluations = 6.0
    name: str = setting("vsd", "name of the estimator")
    guidance: Schedule = default(ScoreSettings, "guidance", Schedule.constant(7.5))
    rank: int = setting(4, "rank of the adapters (LoRA)", low=1, high=256)
    adapter_lr: float = setting(1e-4, "learning rate of the adapters (AdamW)", low=0)
    drop_camera: float = setting(
        0.1, "share of the training images of the adapters without a camera", low=0, high=1
    )
