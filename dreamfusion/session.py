"""A run on disk: training that keeps its logs and checkpoints, and what is made of a trained scene.

Everything here is silent; the command line tells what happens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dreamfusion.cameras import Cameras, turntable_cameras
from dreamfusion.checkpoint import load_checkpoint, save_checkpoint
from dreamfusion.config import Config, ConfigError
from dreamfusion.eventlog import EventLog
from dreamfusion.media import contact_sheet, write_mp4, write_png
from dreamfusion.mesh import extract_mesh
from dreamfusion.meshfile import TEXTURED, Origin, place, write_mesh
from dreamfusion.parallel import is_first, own_device
from dreamfusion.renderer import ImageMode, render_image
from dreamfusion.runs import MetricsLog, RunFolder
from dreamfusion.shading import over
from dreamfusion.trainer import StepMetrics, TrainState, new_state, train

if TYPE_CHECKING:
    from dreamfusion.priors import DiffusionPrior

PREVIEW_SIZE = 96
PREVIEW_VIEWS = 4
SHOW_ELEVATION_DEG = 15.0
TURN_SECONDS = 4


def choose_device(name: str) -> str:
    """A device that is there: auto takes CUDA where it can. Raises ConfigError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = own_device(name)
    kind = name.partition(":")[0]
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there[kind]:
        raise ConfigError(f"there is no {kind} device here; use --device cpu")
    try:
        torch.empty(0, device=name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name} cannot be used: {reason}") from None
    return name


def optimise(
    run: RunFolder,
    state: TrainState,
    prior: DiffusionPrior,
    config: Config,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[StepMetrics]:
    """Train to `config.steps` or until `stop`, with logs, previews and checkpoints on the way.

    Ends with a checkpoint of the very last step in either case. Of several processes the first
    alone writes.
    """
    if not is_first():
        yield from train(state, prior, config, stop=stop)
        return
    saved = state.step
    wanted = config.logging.tensorboard
    with (
        MetricsLog(run.metrics, after=saved) as log,
        EventLog(run.tensorboard, after=saved) if wanted else nullcontext() as events,
    ):
        for metrics in train(state, prior, config, stop=stop):
            log.write(dataclasses.asdict(metrics))
            if events is not None:
                events.write(dataclasses.asdict(metrics))
            if state.step % config.output.preview_every == 0:
                preview = write_preview(run, state, config)
                if events is not None:
                    events.write_picture(preview, state.step)
            if state.step % config.output.checkpoint_every == 0:
                if events is not None:
                    events.flush()
                save_checkpoint(run.checkpoints, state, keep=config.output.checkpoints_kept)
                saved = state.step
            yield metrics
    if saved != state.step or not run.checkpoints.exists():
        save_checkpoint(run.checkpoints, state, keep=config.output.checkpoints_kept)


def load_state(run: RunFolder, config: Config, device: str) -> TrainState:
    """The state at the run's newest checkpoint. Raises CheckpointError."""
    state = new_state(config, device)
    load_checkpoint(run.checkpoints, state)
    return state


def write_preview(run: RunFolder, state: TrainState, config: Config) -> Path:
    """A row of views, 90 degrees apart, front first; named by the step."""
    path = run.previews / f"step_{state.step:07d}.png"
    pictures = _show(state, config, PREVIEW_VIEWS, PREVIEW_SIZE, "color")
    write_png(contact_sheet(pictures, columns=PREVIEW_VIEWS), path)
    return path


def write_turntable(
    path: Path, state: TrainState, config: Config, *, mode: ImageMode, frames: int, size: int
) -> Path:
    """A video once around the object, `frames` pictures of `size` pixels a side."""
    fps = max(12, round(frames / TURN_SECONDS))
    write_mp4(_show(state, config, frames, size, mode), path, fps=fps)
    return path


def write_model(
    path: Path,
    state: TrainState,
    *,
    resolution: int,
    faces: int,
    texture: int,
    threshold: float | None = None,
    origin: Origin = "center",
) -> list[Path]:
    """The scene as a mesh, in the format that the suffix of `path` names; the files written.

    resolution: marching-cubes cells across the box. faces: at most about so many. texture: texels
    a side, 0 for colours at vertices instead, which formats without textures get anyway.
    threshold: density of the surface; found where None. origin: see `meshfile.place`.
    """
    from dreamfusion.texture import bake, decimate

    mesh = extract_mesh(state.shown, state.occupancy, resolution=resolution, threshold=threshold)
    mesh = decimate(mesh, faces)
    if texture == 0 or path.suffix.lower().removeprefix(".") not in TEXTURED:
        return write_mesh(place(mesh, origin), path)
    device = state.occupancy.density.device
    baked = bake(state.shown, mesh, size=texture, device=device)
    return write_mesh(place(baked, origin), path)


def show_cameras(n: int, config: Config) -> Cameras:
    """n cameras around the object, in the middle of the ranges of distance and field of view."""
    distance, fov = config.camera.distance, config.camera.fov_y_deg
    if distance is None or fov is None:
        return turntable_cameras(n, elevation_deg=SHOW_ELEVATION_DEG)
    return turntable_cameras(
        n,
        elevation_deg=SHOW_ELEVATION_DEG,
        distance=sum(distance) / 2,
        fov_y_deg=sum(fov) / 2,
    )


def _show(state: TrainState, config: Config, n: int, size: int, mode: ImageMode) -> torch.Tensor:
    """(n, size, size, 3) pictures around the object, on the background of the settings."""
    device = state.occupancy.density.device
    rgba = render_image(
        state.shown,
        state.occupancy,
        show_cameras(n, config).to(device),
        height=size,
        width=size,
        mode=mode,
        step_size=config.render.step_size,
        backend=config.render.backend,
    )
    return over(rgba, torch.tensor(config.background.color))
