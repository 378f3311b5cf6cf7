"""Training as a run: with logs, previews and checkpoints on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

from dreamfusion.runs.checkpoint import save_checkpoint
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.metrics import MetricsLog
from dreamfusion.runs.preview import write_preview
from dreamfusion.runs.tensorboard import EventLog
from dreamfusion.training.distributed import is_first
from dreamfusion.training.trainer import StepMetrics, Trainer


def optimise(
    run: RunFolder, trainer: Trainer, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[StepMetrics]:
    """Take the steps that remain, or until `stop`, which is asked between steps.

    Ends with a checkpoint of the very last step in either case. Of several processes the first
    alone writes.
    """
    if not is_first():
        yield from _steps(trainer, stop)
        return
    state, config = trainer.state, trainer.config
    saved = state.step
    wanted = config.logging.tensorboard
    with (
        MetricsLog(run.metrics, after=saved) as log,
        EventLog(run.tensorboard, after=saved) if wanted else nullcontext() as events,
    ):
        for metrics in _steps(trainer, stop):
            log.write(metrics.as_mapping())
            if events is not None:
                events.write(metrics.as_mapping())
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


def _steps(trainer: Trainer, stop: Callable[[], bool]) -> Iterator[StepMetrics]:
    """The trainer's steps; `stop` is asked before each, the first too."""
    while trainer.state.step < trainer.config.steps and not stop():
        yield trainer.step()
