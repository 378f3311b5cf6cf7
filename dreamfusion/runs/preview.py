"""Pictures of a run: where they are seen from, and the previews along the way."""

from __future__ import annotations

from pathlib import Path

import torch

from dreamfusion.config.schema import Config, RenderConfig
from dreamfusion.graphics.cameras import Cameras, turntable_cameras
from dreamfusion.graphics.media import contact_sheet, write_png
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.graphics.turntable import Draw, turntable_frames
from dreamfusion.mesh.extract import Mesh
from dreamfusion.mesh.renderer import render_mesh
from dreamfusion.mesh.texture import TexturedMesh
from dreamfusion.runs.folder import RunFolder
from dreamfusion.scenes.nerf.renderer import render_image
from dreamfusion.scenes.nerf.scene import Scene
from dreamfusion.training.state import TrainState

PREVIEW_SIZE = 96
PREVIEW_VIEWS = 4
SHOW_ELEVATION_DEG = 15.0


def show_cameras(n: int, config: Config, *, elevation_deg: float = SHOW_ELEVATION_DEG) -> Cameras:
    """n cameras around the object, in the middle of the ranges of distance and field of view."""
    camera = config.camera
    if camera.fov_y_deg is None:
        return turntable_cameras(n, elevation_deg=elevation_deg)
    return turntable_cameras(
        n,
        elevation_deg=elevation_deg,
        distance=sum(camera.distance) / 2,
        fov_y_deg=sum(camera.fov_y_deg) / 2,
    )


def draw_scene(scene: Scene, options: RenderConfig) -> Draw:
    """What draws a scene."""

    def draw(cameras: Cameras, size: int, mode: ImageMode) -> torch.Tensor:
        return render_image(scene, cameras, height=size, width=size, mode=mode, options=options)

    return draw


def draw_mesh(mesh: Mesh | TexturedMesh) -> Draw:
    """What draws a mesh."""

    def draw(cameras: Cameras, size: int, mode: ImageMode) -> torch.Tensor:
        return render_mesh(mesh, cameras, height=size, width=size, mode=mode)

    return draw


def write_preview(run: RunFolder, state: TrainState, config: Config) -> Path:
    """A row of views, 90 degrees apart, front first; named by the step."""
    path = run.previews / f"step_{state.step:07d}.png"
    views = turntable_frames(
        draw_scene(state.shown, config.render),
        show_cameras(PREVIEW_VIEWS, config),
        size=PREVIEW_SIZE,
        modes=["color"],
    )
    pictures = over(torch.stack(list(views)), torch.tensor(config.background.color))
    write_png(contact_sheet(pictures, columns=PREVIEW_VIEWS), path)
    return path
