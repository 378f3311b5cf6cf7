"""Text to 3D by Score Distillation Sampling (DreamFusion, arXiv:2209.14988)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dreamfusion.utils.version import __version__

if TYPE_CHECKING:
    from dreamfusion.api import Run, open_run, train
    from dreamfusion.config.layers import build_config
    from dreamfusion.config.schema import Config
    from dreamfusion.distillation.sds import sds
    from dreamfusion.graphics.cameras import orbit_cameras, turntable_cameras
    from dreamfusion.priors import DiffusionPrior
    from dreamfusion.scenes.nerf.scene import Scene
    from dreamfusion.training.trainer import Trainer
    from dreamfusion.utils.errors import UserError

# The public names and where they live; each is imported when it is first asked for.
_HOMES = {
    "Config": "config.schema",
    "DiffusionPrior": "priors",
    "Run": "api",
    "Scene": "scenes.nerf.scene",
    "Trainer": "training.trainer",
    "UserError": "utils.errors",
    "build_config": "config.layers",
    "open_run": "api",
    "orbit_cameras": "graphics.cameras",
    "sds": "distillation.sds",
    "train": "api",
    "turntable_cameras": "graphics.cameras",
}
__all__ = [
    "Config",
    "DiffusionPrior",
    "Run",
    "Scene",
    "Trainer",
    "UserError",
    "__version__",
    "build_config",
    "open_run",
    "orbit_cameras",
    "sds",
    "train",
    "turntable_cameras",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
