"""Text to 3D by Score Distillation Sampling (DreamFusion, arXiv:2209.14988)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dreamfusion.utils.version import __version__

if TYPE_CHECKING:
    from dreamfusion.api import Run, config_for, distill, open_run, train
    from dreamfusion.config.layers import build_config
    from dreamfusion.config.schedules import Schedule
    from dreamfusion.config.schema import Config
    from dreamfusion.config.sections import setting
    from dreamfusion.diffusion.condition import Condition, Conditions, TextEmbedding
    from dreamfusion.diffusion.predictions import (
        NoisePredictor,
        Noisy,
        Prediction,
        add_noise,
        guided,
        predictions,
    )
    from dreamfusion.distillation.base import (
        Batch,
        Distilled,
        Estimator,
        ScoreEstimator,
        distillation_loss,
    )
    from dreamfusion.distillation.functional import sds
    from dreamfusion.distillation.settings import EstimatorSettings, ScoreSettings, Text
    from dreamfusion.graphics.cameras import Cameras, orbit_cameras, turntable_cameras
    from dreamfusion.graphics.shading import Lighting
    from dreamfusion.mesh.extract import Surface, extract_surface
    from dreamfusion.priors import DiffusionPrior, PriorCard, PriorSettings
    from dreamfusion.priors.base import Prior
    from dreamfusion.scenes.base import Rendered, Scene, Views
    from dreamfusion.scenes.settings import SceneSettings
    from dreamfusion.training.trainer import Loss, Trainer
    from dreamfusion.utils.distributed import average_gradients, mean_over_processes
    from dreamfusion.utils.errors import UserError
    from dreamfusion.utils.state import Progress, Stateful

# The public names and where they live; each is imported when it is first asked for. They are kept
# stable: what is renamed stays here under its old name for two minor versions.
_HOMES = {
    "Batch": "distillation.base",
    "Cameras": "graphics.cameras",
    "Condition": "diffusion.condition",
    "Conditions": "diffusion.condition",
    "Config": "config.schema",
    "DiffusionPrior": "priors",
    "Distilled": "distillation.base",
    "Estimator": "distillation.base",
    "EstimatorSettings": "distillation.settings",
    "Lighting": "graphics.shading",
    "Loss": "training.trainer",
    "NoisePredictor": "diffusion.predictions",
    "Noisy": "diffusion.predictions",
    "Prediction": "diffusion.predictions",
    "Prior": "priors.base",
    "PriorCard": "priors",
    "PriorSettings": "priors",
    "Progress": "utils.state",
    "Rendered": "scenes.base",
    "Run": "api",
    "Scene": "scenes.base",
    "SceneSettings": "scenes.settings",
    "Schedule": "config.schedules",
    "ScoreEstimator": "distillation.base",
    "ScoreSettings": "distillation.settings",
    "Stateful": "utils.state",
    "Surface": "mesh.extract",
    "Text": "distillation.settings",
    "TextEmbedding": "diffusion.condition",
    "Trainer": "training.trainer",
    "UserError": "utils.errors",
    "Views": "scenes.base",
    "add_noise": "diffusion.predictions",
    "average_gradients": "utils.distributed",
    "build_config": "config.layers",
    "config_for": "api",
    "distill": "api",
    "distillation_loss": "distillation.base",
    "extract_surface": "mesh.extract",
    "guided": "diffusion.predictions",
    "mean_over_processes": "utils.distributed",
    "open_run": "api",
    "orbit_cameras": "graphics.cameras",
    "predictions": "diffusion.predictions",
    "sds": "distillation.functional",
    "setting": "config.sections",
    "train": "api",
    "turntable_cameras": "graphics.cameras",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
