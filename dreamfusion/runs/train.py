"""A run from its plan to its mesh and video."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.config.schema import Config
from dreamfusion.graphics.media import NoEncoder
from dreamfusion.graphics.turntable import turntable_frames, write_turntable
from dreamfusion.priors import DiffusionPrior, load_prior
from dreamfusion.runs.checkpoint import checkpoints, keep_newest, load_state, set_aside_damaged
from dreamfusion.runs.export import Export, write_model
from dreamfusion.runs.folder import RunError, RunFolder, create_run, step_of
from dreamfusion.runs.lock import locked
from dreamfusion.runs.loop import optimise
from dreamfusion.runs.plan import Plan
from dreamfusion.runs.preview import draw_scene, show_cameras
from dreamfusion.training.state import TrainState, new_state
from dreamfusion.training.texts import texts_of
from dreamfusion.training.trainer import StepMetrics, Trainer
from dreamfusion.utils.atomic_write import atomic_write, remove_leftovers
from dreamfusion.utils.devices import choose_device
from dreamfusion.utils.distributed import any_process, from_first, is_first, process_group, share
from dreamfusion.utils.errors import RunWarning, UserError, one_line
from dreamfusion.utils.out_of_memory import explain_out_of_memory
from dreamfusion.utils.stopwatch import Stopwatch
from dreamfusion.utils.threads import fixed_order


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
    """What came of a run. finished: it took all its steps; otherwise there is no mesh yet. seconds:
    of each stage in this process."""

    run: RunFolder
    state: TrainState
    finished: bool
    seconds: dict[str, float]
    export: Export | None = None


def train_run(
    plan: Plan,
    where: Path | RunFolder,
    *,
    prior: DiffusionPrior | None = None,
    observer: Observer | None = None,
    watch: Stopwatch | None = None,
    stop: Callable[[], bool] = lambda: False,
    around: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Outcome:
    """Train in a new folder at `where`, or go on with the run that is there, and make its mesh and
    its video.

    prior: one that is loaded already. watch: is told of each stage. stop: is asked
    between steps whether to stop with a checkpoint. around: a context for the time of the run.
    """
    observer = Observer() if observer is None else observer
    watch = Stopwatch("starting") if watch is None else watch
    config = plan.config
    device = choose_device(config.device) if prior is None else str(prior.device)
    with explain_out_of_memory(), process_group(device), around(), fixed_order():
        mine = share(config.camera.views)
        watch.begin("loading the prior")
        if prior is None:
            assert plan.prior is not None
            prior = load_prior(
                plan.prior,
                config.prior,
                device=device,
                prompts=texts_of(plan.prior.card.vocabulary, plan.reading, config.prior),
                views=mine.stop - mine.start,
            )
        run = _folder(where)
        with _alone(run), _explain_full_disk(run):
            state = _state(run, config, device)
            trainer = Trainer(config, prior, state)
            if is_first():
                if plan.layers:
                    run.write_layers(plan.layers)
                run.write_config(trainer.config)  # last: with it there is a run
            observer.begins(run, trainer)
            watch.begin("training")
            steps = optimise(run, trainer, stop=lambda: any_process(stop(), device))
            for _ in observer.steps(run, trainer, steps):
                pass
            if state.step < config.steps:
                return Outcome(run, state, finished=False, seconds=watch.seconds())
            written = None
            if is_first():
                written = finish(run, trainer.config, state, observer, watch)
                with atomic_write(run.stages) as file:
                    rounded = {stage: round(s, 2) for stage, s in watch.seconds().items()}
                    file.write_text(json.dumps(rounded, indent=1) + "\n")
    return Outcome(run, state, finished=True, seconds=watch.seconds(), export=written)


def finish(
    run: RunFolder, config: Config, state: TrainState, observer: Observer, watch: Stopwatch
) -> Export:
    """Make the mesh and the video of a trained run. The mesh comes first: it is waited for. Where
    there is nothing to write videos with, a warning says so."""

    def stage(text: str) -> None:
        watch.begin(text)
        observer.stage(text)

    written = write_model(run.mesh / "model.glb", state, config, say=stage)
    observer.exported(written)
    watch.begin("drawing the video")
    output = config.output
    frames = turntable_frames(
        draw_scene(state.shown, config.render),
        show_cameras(output.video_frames, config),
        size=output.video_size,
        modes=["color"],
    )
    try:
        write_turntable(
            observer.frames(frames, output.video_frames),
            run.video,
            count=output.video_frames,
            background=torch.tensor(config.background.color),
        )
    except NoEncoder as error:
        warnings.warn(RunWarning(f"no {run.video.name}: {error}"), stacklevel=2)
    return written


def _folder(where: Path | RunFolder) -> RunFolder:
    """The folder of the run, which the first process makes if need be."""
    if isinstance(where, RunFolder):
        return where
    return RunFolder(from_first(create_run(where).path if is_first() else where))


@contextmanager
def _alone(run: RunFolder) -> Iterator[None]:
    """The first process locks the run, and clears away what a killed one has left there."""
    if not is_first():
        yield
        return
    with locked(run):
        for folder in (run.path, run.checkpoints, run.previews, run.mesh):
            remove_leftovers(folder)
        yield


@contextmanager
def _explain_full_disk(run: RunFolder) -> Iterator[None]:
    """Turn an error of the file system, a full disk first of all, into one line that says what is
    safe."""
    try:
        yield
    except BrokenPipeError:  # of the terminal
        raise
    except OSError as error:
        found = checkpoints(run.checkpoints)
        step = step_of(found[-1]) if found else 0
        what = error.strerror or one_line(error)
        raise RunError(
            f"cannot write {error.filename or run.path}: {what}; step {step} is safe, mend that "
            f"and go on with: dreamfusion resume {run.path}"
        ) from error


def _state(run: RunFolder, config: Config, device: str) -> TrainState:
    """The state to go on from. A run that was killed before its first checkpoint begins again,
    from the same seed."""
    if not checkpoints(run.checkpoints):
        return new_state(config, device)
    state = load_state(run, config, device)
    if config.steps < state.step:
        raise UserError(f"{run.path} is at step {state.step}, beyond {config.steps}")
    if is_first():
        set_aside_damaged(run.checkpoints, state.step)
        keep_newest(run.checkpoints, config.output.checkpoints_kept)  # a killed run may leave more
    return state
