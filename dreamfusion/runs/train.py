"""A run from its plan to its mesh and video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.config.schema import Config
from dreamfusion.diffusion.priors import DiffusionPrior, load_prior
from dreamfusion.graphics.turntable import turn, write_turn
from dreamfusion.runs.checkpoint import checkpoints, load_state
from dreamfusion.runs.export import Export, write_model
from dreamfusion.runs.folder import RunFolder, create_run
from dreamfusion.runs.loop import optimise
from dreamfusion.runs.plan import Plan
from dreamfusion.runs.preview import draw_scene, show_cameras
from dreamfusion.training.distributed import any_process, from_first, is_first, process_group, share
from dreamfusion.training.state import TrainState, new_state
from dreamfusion.training.texts import texts_of
from dreamfusion.training.trainer import StepMetrics, Trainer
from dreamfusion.utils.devices import choose_device
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.out_of_memory import explain_out_of_memory


class Observer:
    """Is told how a run goes. This one keeps it to itself."""

    def begins(self, run: RunFolder, trainer: Trainer) -> None:
        """Everything is loaded, and the first step comes next."""

    def steps(
        self, run: RunFolder, trainer: Trainer, steps: Iterator[StepMetrics]
    ) -> Iterable[StepMetrics]:
        """The steps, to be passed on as they are taken."""
        return steps

    def stage(self, text: str) -> None:
        """Something after the last step begins that takes a while."""

    def exported(self, written: Export) -> None:
        """The mesh is written."""

    def frames(self, pictures: Iterable[Tensor], count: int) -> Iterable[Tensor]:
        """The frames of the video, to be passed on as they are drawn."""
        return pictures


@dataclass(frozen=True)
class Outcome:
    """What came of a run. finished: it took all its steps; otherwise there is no mesh yet."""

    run: RunFolder
    state: TrainState
    finished: bool
    export: Export | None = None


def train_run(
    plan: Plan,
    where: Path | RunFolder,
    *,
    prior: DiffusionPrior | None = None,
    observer: Observer | None = None,
    stop: Callable[[], bool] = lambda: False,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Outcome:
    """Train in a new folder at `where`, or go on with the run that is there, and make its mesh and
    its video.

    prior: one that is loaded already. stop: is asked between steps whether to stop with a
    checkpoint. around: a context for the time of the run.
    """
    observer = Observer() if observer is None else observer
    config = plan.config
    device = choose_device(config.device) if prior is None else str(prior.device)
    with explain_out_of_memory(), process_group(device), around():
        mine = share(config.camera.views)
        if prior is None:
            assert plan.prior is not None
            prior = load_prior(
                plan.prior,
                config.prior,
                device=device,
                prompts=texts_of(plan.prior.card.vocabulary, plan.reading, config.prior),
                views=mine.stop - mine.start,
            )
        run, state = _folder_and_state(where, config, device)
        trainer = Trainer(config, prior, state)
        if is_first():
            run.write_config(trainer.config)
            if plan.layers:
                run.write_layers(plan.layers)
        observer.begins(run, trainer)
        steps = optimise(run, trainer, stop=lambda: any_process(stop(), device))
        for _ in observer.steps(run, trainer, steps):
            pass
        state = trainer.state
        if state.step < config.steps:
            return Outcome(run, state, finished=False)
        written = finish(run, trainer.config, state, observer) if is_first() else None
    return Outcome(run, state, finished=True, export=written)


def finish(run: RunFolder, config: Config, state: TrainState, observer: Observer) -> Export:
    """Make the mesh and the video of a trained run. The mesh comes first: it is waited for."""
    written = write_model(run.mesh / "model.glb", state, config, say=observer.stage)
    observer.exported(written)
    output = config.output
    frames = turn(
        draw_scene(state.shown, config.render),
        show_cameras(output.video_frames, config),
        size=output.video_size,
        modes=["color"],
    )
    write_turn(
        observer.frames(frames, output.video_frames),
        run.video,
        count=output.video_frames,
        background=torch.tensor(config.background.color),
    )
    return written


def _folder_and_state(
    where: Path | RunFolder, config: Config, device: str
) -> tuple[RunFolder, TrainState]:
    """The run's folder, and the state to go on from. A run that was killed before its first
    checkpoint begins again, from the same seed."""
    if isinstance(where, RunFolder):
        run = where
    else:
        run = RunFolder(from_first(create_run(where).path if is_first() else where))
    begun = bool(checkpoints(run.checkpoints))
    state = load_state(run, config, device) if begun else new_state(config, device)
    if config.steps < state.step:
        raise UserError(f"{run.path} is at step {state.step}, beyond {config.steps}")
    return run, state
