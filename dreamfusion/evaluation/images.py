"""The images of a run that a judge scores."""

import torch
from torch import Tensor

from dreamfusion.config.schema import Config
from dreamfusion.evaluation.judges import Look
from dreamfusion.graphics.cameras import show_cameras
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.runs.preview import draw_scene
from dreamfusion.scenes.base import Scene
from dreamfusion.utils.errors import UserError

ELEVATION_DEG = 30.0  # as in DreamFusion's evaluation
VIEWS = 8
MODES: dict[Look, ImageMode] = {"color": "albedo", "shaded": "color", "geometry": "textureless"}
LEAST_OPACITY = 0.002  # mean opacity of the images below which a scene counts as empty


class NothingToSee(UserError):
    """The scene is empty."""


def images_of(scene: Scene, config: Config, *, views: int, size: int) -> dict[Look, Tensor]:
    """Views (views, size, size, 3) around the object on white, front first, for each look. Raises
    NothingToSee for an empty scene."""
    cameras = show_cameras(views, config.camera, elevation_deg=ELEVATION_DEG)
    draw = draw_scene(scene)
    drawn = {look: draw(cameras, size, mode) for look, mode in MODES.items()}
    if float(drawn["color"][..., 3].mean()) < LEAST_OPACITY:
        raise NothingToSee("the scene is empty")
    return {look: over(rgba, torch.ones(3)) for look, rgba in drawn.items()}
