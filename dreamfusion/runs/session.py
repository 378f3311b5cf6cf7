"""A run on disk: training that keeps its logs and checkpoints, and what is made of a trained scene.

Everything here is silent; the command line tells what happens.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dreamfusion.graphics.cameras import Cameras, turntable_cameras
from dreamfusion.runs.checkpoint import (
    CheckpointError,
    checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from dreamfusion.config.schema import Config, ConfigError, override
from dreamfusion.runs.tensorboard import EventLog
from dreamfusion.graphics.media import contact_sheet, write_png
from dreamfusion.mesh.extract import Mesh, extract_mesh
from dreamfusion.mesh.compare import Agreement, agreement
from dreamfusion.mesh.formats import TEXTURED, Origin, origin_of, place, write_mesh
from dreamfusion.mesh.renderer import render_mesh
from dreamfusion.training.distributed import is_first, own_device
from dreamfusion.mesh.provenance import Provenance
from dreamfusion.nerf.renderer import render_image
from dreamfusion.runs.folder import MetricsLog, RunFolder
from dreamfusion.graphics.shading import ImageMode, over
from dreamfusion.mesh.texture import TexturedMesh, bake, decimate
from dreamfusion.mesh.topology import Topology, topology
from dreamfusion.training.step import StepMetrics, TrainState, new_state, train
from dreamfusion.graphics.turntable import Draw, turn
from dreamfusion.mesh.usd import require_usd

if TYPE_CHECKING:
    from dreamfusion.diffusion.priors import DiffusionPrior

PREVIEW_SIZE = 96
PREVIEW_VIEWS = 4
CHECK_VIEWS = 8
SHOW_ELEVATION_DEG = 15.0


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


def runnable_here(config: Config) -> Config:
    """A run's settings for looking at it: backends that were forced for training may not be
    on this machine."""
    return override(config, {"field": {"backend": "auto"}, "render": {"backend": "auto"}})


def require_checkpoint(run: RunFolder) -> None:
    """Raises CheckpointError where there is nothing to look at yet."""
    if not checkpoints(run.checkpoints):
        every = run.read_config().output.checkpoint_every
        raise CheckpointError(
            f"{run.path} has no checkpoint yet: the first comes after {every} steps, or when the "
            f"run is stopped; if it trains no more: dreamfusion resume {run.path}"
        )


def load_state(run: RunFolder, config: Config, device: str) -> TrainState:
    """The state at the run's newest checkpoint. Raises CheckpointError."""
    require_checkpoint(run)
    state = new_state(config, device)
    load_checkpoint(run.checkpoints, state)
    return state


def write_preview(run: RunFolder, state: TrainState, config: Config) -> Path:
    """A row of views, 90 degrees apart, front first; named by the step."""
    path = run.previews / f"step_{state.step:07d}.png"
    views = turn(
        draw_scene(state, config),
        show_cameras(PREVIEW_VIEWS, config),
        size=PREVIEW_SIZE,
        modes=["color"],
    )
    pictures = over(torch.stack(list(views)), torch.tensor(config.background.color))
    write_png(contact_sheet(pictures, columns=PREVIEW_VIEWS), path)
    return path


@dataclass(frozen=True)
class Export:
    """files: what was written, the model first. topology: of the mesh. agreement: how far it
    looks like the scene."""

    files: list[Path]
    topology: Topology
    agreement: Agreement


def write_model(
    path: Path,
    state: TrainState,
    config: Config,
    *,
    resolution: int | None = None,
    faces: int | None = None,
    texture: int | None = None,
    threshold: float | None = None,
    origin: Origin = "center",
    say: Callable[[str], None] = lambda stage: None,
) -> Export:
    """The scene as a mesh, in the format that the suffix of `path` names, and what it is worth.

    resolution: marching-cubes cells across the box. faces: at most about so many. texture: texels
    a side, 0 for colours at vertices instead, which formats without textures get anyway. What is
    None is as configured. threshold: density of the surface; found where None. origin: see
    `meshfile.place`. say: is told each stage as it begins.
    """
    output = config.output
    size = output.texture_size if texture is None else texture
    if path.suffix.lower() == ".usdz":
        require_usd()
    say("finding the surface")
    mesh = extract_mesh(
        state.shown,
        state.occupancy,
        resolution=resolution or output.mesh_resolution,
        threshold=threshold,
    )
    mesh = decimate(mesh, faces or output.mesh_faces)
    device = state.occupancy.density.device
    model: Mesh | TexturedMesh = mesh
    if size > 0 and path.suffix.lower().removeprefix(".") in TEXTURED:
        say("baking the texture")
        model = bake(state.shown, mesh, size=size, device=device)
    say("comparing with the scene")
    cameras = show_cameras(CHECK_VIEWS, config).to(device)
    looks = agreement(model, state.shown, state.occupancy, cameras)
    x, y, z = origin_of(model, origin).tolist()
    psnr = looks.psnr_db if math.isfinite(looks.psnr_db) else None
    provenance = Provenance(state.step, (x, y, z), psnr, looks.silhouette_iou)
    files = write_mesh(place(model, origin), path, provenance=provenance)
    return Export(files, topology(mesh.vertices, mesh.faces), looks)


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


def draw_scene(state: TrainState, config: Config) -> Draw:
    """What draws the scene of `state`."""
    device = state.occupancy.density.device

    def draw(cameras: Cameras, size: int, mode: ImageMode) -> torch.Tensor:
        return render_image(
            state.shown,
            state.occupancy,
            cameras.to(device),
            height=size,
            width=size,
            mode=mode,
            step_size=config.render.step_size,
            backend=config.render.backend,
        )

    return draw


def draw_mesh(mesh: Mesh | TexturedMesh) -> Draw:
    """What draws a mesh."""

    def draw(cameras: Cameras, size: int, mode: ImageMode) -> torch.Tensor:
        return render_mesh(mesh, cameras, height=size, width=size, mode=mode)

    return draw
