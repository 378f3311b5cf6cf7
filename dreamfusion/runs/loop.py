"""The training loop of a run: writes logs, previews and checkpoints, and rolls back to the last
checkpoint if numbers are no longer finite."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from dreamfusion.config.schema import Config
from dreamfusion.graphics.cameras import show_cameras
from dreamfusion.graphics.media import contact_sheet, turntable_frames, write_png
from dreamfusion.graphics.shading import over
from dreamfusion.runs.checkpoint import (
    checkpoints,
    draw_scene,
    load_checkpoint,
    restore_snapshot,
    save_checkpoint,
    snapshot,
)
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.metrics import event_log, metrics_log, scalars
from dreamfusion.training.state import TrainState
from dreamfusion.training.trainer import DivergedError, StepMetrics, Trainer, TrainingError
from dreamfusion.utils.distributed import is_first
from dreamfusion.utils.errors import RunWarning

PREVIEW_SIZE, PREVIEW_VIEWS = 96, 4
MAX_ROLLBACKS = 3
PATIENCE = 100  # consecutive steps of a collapsed scene before a warning
EMPTY, FULL = 0.002, 0.985  # mean opacity of a step's images


def optimise(
    run: RunFolder, trainer: Trainer, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[StepMetrics]:
    """Take the remaining steps and yield their metrics, until `stop`, called between steps, returns
    True.

    Ends with a checkpoint of the last step. With several processes, only the first one writes
    files. After a rollback, steps are repeated; see `_roll_back`. Raises TrainingError.
    """
    beginning = snapshot(trainer.state) if trainer.state.step == 0 else {}
    while True:
        try:
            steps = trainer.steps(stop)
            yield from _logged(run, trainer, steps) if is_first() else steps
            return
        except DivergedError as error:
            _roll_back(run, trainer, error, beginning)


def _logged(
    run: RunFolder, trainer: Trainer, steps: Iterator[StepMetrics]
) -> Iterator[StepMetrics]:
    state, config = trainer.state, trainer.config
    saved = state.step
    has_events = config.logging.tensorboard
    empty = full = 0  # consecutive steps of a collapsed scene
    with (
        metrics_log(run.metrics, after=saved) as log,
        event_log(run.tensorboard, after=saved) if has_events else nullcontext() as events,
    ):
        for metrics in steps:
            run.require()
            log(metrics.as_mapping())
            for name, value in scalars(metrics.as_mapping()).items() if events else ():
                events.add_scalar(f"train/{name}", value, state.step)
            if state.step % config.output.preview_every == 0:
                write_preview(run, state, config)
            if state.step % config.output.checkpoint_every == 0:
                if events:  # a checkpoint is never ahead of the log
                    events.flush()
                save_checkpoint(run.checkpoints, state, keep=config.output.checkpoints_kept)
                saved = state.step
            empty = empty + 1 if metrics.opacity < EMPTY else 0
            full = full + 1 if metrics.opacity > FULL else 0
            if PATIENCE in (empty, full):
                what, how = ("been empty", "lower") if empty else ("filled every image", "higher")
                text = (
                    f"step {state.step}: the scene has {what} for {PATIENCE} steps and will hardly "
                    f"recover: stop, and try another seed or {how} losses.opacity"
                )
                warnings.warn(RunWarning(text), stacklevel=2)
            yield metrics
    if saved != state.step or not run.checkpoints.exists():
        run.require()
        save_checkpoint(run.checkpoints, state, keep=config.output.checkpoints_kept)


def _roll_back(
    run: RunFolder, trainer: Trainer, error: DivergedError, beginning: Mapping[str, Tensor]
) -> None:
    """Restore the trainer's state from the last checkpoint, or from the beginning, with half the
    learning rates and new random numbers. Raises TrainingError after `MAX_ROLLBACKS` rollbacks."""
    state = trainer.state
    rollbacks, failed_at = state.rollbacks + 1, state.step
    if rollbacks > MAX_ROLLBACKS:
        raise TrainingError(f"{error} (after {MAX_ROLLBACKS} rollbacks to the last good step)")
    if checkpoints(run.checkpoints):
        load_checkpoint(run.checkpoints, state)
    else:
        restore_snapshot(state, beginning)
    state.rollbacks, state.rolled_back_at = rollbacks, failed_at
    new_seed = int(torch.randint(2**62, (), generator=state.generator)) + rollbacks
    state.generator.manual_seed(new_seed)
    warning = (
        f"{error}; rolling back to step {state.step}, with learning rates times "
        f"{0.5**rollbacks:g} (rollback {rollbacks} of {MAX_ROLLBACKS})"
    )
    if is_first():
        warnings.warn(RunWarning(warning), stacklevel=2)


def write_preview(run: RunFolder, state: TrainState, config: Config) -> None:
    """Write a row of views, 90 degrees apart, front first. The file is named after the step."""
    views = turntable_frames(
        draw_scene(state.scene.averaged),
        show_cameras(PREVIEW_VIEWS, config.camera),
        size=PREVIEW_SIZE,
        modes=["color"],
    )
    images = over(torch.stack(list(views)), torch.tensor(config.background.color))
    write_png(
        contact_sheet(images, columns=PREVIEW_VIEWS), run.previews / f"step_{state.step:07d}.png"
    )
