"""The public names, and where they live."""

from .api import Run, config_for, distill, open_run, train
from .config.layers import build_config
from .config.schedules import Schedule
from .config.schema import Config
from .config.sections import setting
from .diffusion.condition import Condition, Conditions, TextEmbedding
from .diffusion.predictions import (
    NoisePredictor,
    Noisy,
    Prediction,
    add_noise,
    guided,
    predictions,
)
from .distillation.base import (
    Batch,
    Distilled,
    Estimator,
    ScoreEstimator,
    distillation_loss,
)
from .distillation.functional import sds
from .distillation.settings import EstimatorSettings, ScoreSettings, Text
from .graphics.cameras import Cameras, orbit_cameras, turntable_cameras
from .graphics.shading import Lighting
from .mesh.extract import Surface, extract_surface
from .priors import DiffusionPrior, PriorCard, PriorSettings
from .priors.base import Prior
from .scenes.base import Rendered, Scene, Views
from .scenes.settings import SceneSettings
from .training.trainer import Loss, Trainer
from .utils.distributed import average_gradients, mean_over_processes
from .utils.errors import UserError
from .utils.state import Progress, Stateful

__all__ = [
    "Batch",
    "Cameras",
    "Condition",
    "Conditions",
    "Config",
    "DiffusionPrior",
    "Distilled",
    "Estimator",
    "EstimatorSettings",
    "Lighting",
    "Loss",
    "NoisePredictor",
    "Noisy",
    "Prediction",
    "Prior",
    "PriorCard",
    "PriorSettings",
    "Progress",
    "Rendered",
    "Run",
    "Scene",
    "SceneSettings",
    "Schedule",
    "ScoreEstimator",
    "ScoreSettings",
    "Stateful",
    "Surface",
    "Text",
    "TextEmbedding",
    "Trainer",
    "UserError",
    "Views",
    "add_noise",
    "average_gradients",
    "build_config",
    "config_for",
    "distill",
    "distillation_loss",
    "extract_surface",
    "guided",
    "mean_over_processes",
    "open_run",
    "orbit_cameras",
    "predictions",
    "sds",
    "setting",
    "train",
    "turntable_cameras",
]
__version__: str
