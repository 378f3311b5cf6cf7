"""Renders scenes and meshes of a run, and writes previews during training."""

from pathlib import Path

import torch

from dreamfusion.config.schema import Config
from dreamfusion.graphics.cameras import show_cameras
from dreamfusion.graphics.media import contact_sheet, write_png
from dreamfusion.graphics.shading import over
from dreamfusion.graphics.turntable import Draw, turntable_frames
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.renderer import render_mesh
from dreamfusion.mesh.texture import TexturedMesh
from dreamfusion.runs.folder import RunFolder
from dreamfusion.scenes.base import Scene, render_image
from dreamfusion.training.state import TrainState

PREVIEW_SIZE = 96
PREVIEW_VIEWS = 4


def draw_scene(scene: Scene) -> Draw:
    """Return a function that renders a scene."""
    return lambda cameras, size, mode: render_image(
        scene, cameras, height=size, width=size, mode=mode
    )


def draw_mesh(mesh: Mesh | TexturedMesh) -> Draw:
    """Return a function that renders a mesh."""
    return lambda cameras, size, mode: render_mesh(
        mesh, cameras, height=size, width=size, mode=mode
    )


def write_preview(run: RunFolder, state: TrainState, config: Config) -> Path:
    """Write a row of views, 90 degrees apart, front first. The file is named after the step."""
    path = run.previews / f"step_{state.step:07d}.png"
    views = turntable_frames(
        draw_scene(state.scene.averaged),
        show_cameras(PREVIEW_VIEWS, config.camera),
        size=PREVIEW_SIZE,
        modes=["color"],
    )
    images = over(torch.stack(list(views)), torch.tensor(config.background.color))
    write_png(contact_sheet(images, columns=PREVIEW_VIEWS), path)
    return path
