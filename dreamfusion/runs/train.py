"""Executes a run, from its plan to its mesh and video. Rolls back if numbers are not finite."""

import errno
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from dreamfusion.config.schema import Config, PriorConfig
from dreamfusion.diffusion.predictions import group_size
from dreamfusion.graphics.cameras import show_cameras
from dreamfusion.graphics.media import (
    NoEncoder,
    contact_sheet,
    turntable_frames,
    write_png,
    write_turntable,
)
from dreamfusion.graphics.shading import over
from dreamfusion.mesh.renderer import draw_mesh
from dreamfusion.priors import load_prior
from dreamfusion.priors.base import Prior
from dreamfusion.priors.identity import identify, read_identity
from dreamfusion.runs.checkpoint import (
    SavedScene,
    checkpoints,
    copy_scene,
    draw_scene,
    keep_newest,
    load_checkpoint,
    load_scene,
    restore,
    save_checkpoint,
    set_aside_damaged,
    tensors_of,
)
from dreamfusion.runs.export import Export, write_model
from dreamfusion.runs.folder import (
    Destination,
    RunError,
    RunFolder,
    create_run,
    find_run,
    locked,
    step_of,
)
from dreamfusion.runs.metrics import event_log, metrics_log, scalars
from dreamfusion.runs.plan import FoundPrior, Plan, PlannedStage, prior_before
from dreamfusion.scenes.base import Scene
from dreamfusion.training.state import TrainState, new_state
from dreamfusion.training.texts import texts_of
from dreamfusion.training.trainer import DivergedError, Loss, StepMetrics, Trainer, TrainingError
from dreamfusion.utils.devices import choose_device
from dreamfusion.utils.distributed import any_process, from_first, is_first, process_group, share
from dreamfusion.utils.duration import Stopwatch
from dreamfusion.utils.errors import RunWarning, UserError, command, explain_out_of_memory, one_line
from dreamfusion.utils.files import remove_leftovers, write_text
from dreamfusion.utils.threads import fixed_order

THUMBNAIL_SIZE = 256  # pixels per side
PREVIEW_SIZE, PREVIEW_VIEWS = 96, 4
MAX_ROLLBACKS = 3
PATIENCE = 100  # consecutive steps of a collapsed scene before a warning
EMPTY, FULL = 0.002, 0.985  # mean opacity of a step's images


class Observer:
    """Receives progress callbacks of a run. The base class ignores them."""

    def begins(self, run: RunFolder, trainer: Trainer) -> None:
        """Called after loading, before the first step."""

    def steps(
        self, run: RunFolder, trainer: Trainer, steps: Iterator[StepMetrics]
    ) -> Iterable[StepMetrics]:
        """Wraps the steps; must yield them as they are taken."""
        return steps

    def stage(self, text: str) -> None:
        """Called when a longer piece of work begins after the last step."""

    def exported(self, written: Export) -> None:
        """Called when the mesh is written."""

    def frames(self, images: Iterable[Tensor], count: int) -> Iterable[Tensor]:
        """Wraps the frames of the video; must yield them as they are drawn."""
        return images


@dataclass(frozen=True)
class Outcome:
    """The result of a run. finished: whether all steps are done; otherwise there is no mesh yet.
    seconds: duration of each part in this process."""

    run: RunFolder
    state: TrainState
    finished: bool
    seconds: dict[str, float]
    export: Export | None = None


def train_run(
    plan: Plan,
    where: Path | RunFolder | Destination,
    *,
    losses: Sequence[Loss] = (),
    observer: Observer | None = None,
    watch: Stopwatch | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train in a new folder at `where`, or resume the run there, and make its mesh and its video.

    losses: see `Trainer`. watch: records the duration of each stage. stop: called between steps;
    True stops the run with a checkpoint. Raises UserError with a message of one line.
    """
    observer = Observer() if observer is None else observer
    watch = Stopwatch("starting") if watch is None else watch
    config = plan.config
    first = plan.stages[0].prior
    device = choose_device(config.device) if isinstance(first, FoundPrior) else str(first.device)
    with explain_out_of_memory(), process_group(device), fixed_order():
        priors = _Priors(plan, device)
        watch.begin("loading the prior")
        priors.of(plan.stages[0])
        run = _folder(where)
        with _exclusive_lock(run), _explain_full_disk(run):
            scene = None
            if config.start:  # copied, so that this run does not depend on the other one
                if is_first() and not run.start.config.is_file():
                    copy_scene(find_run(Path(config.start)), run.start)
                from_first(None)
                scene = load_scene(run.start, run.start.read_config(), device).scene
            for planned in plan.stages:
                stage, prior = planned.stage, priors.of(planned)
                folder = stage.folder(run)
                state = _state(folder, stage.config, prior, scene)
                trainer = Trainer(stage.config, prior, state, losses=losses, start=scene)
                if is_first():
                    if plan.layers and not stage.name:
                        run.write_layers(plan.layers)
                    _note_prior(run, planned)
                    resolved = replace(trainer.config, stages={} if stage.name else config.stages)
                    folder.write_config(resolved)  # last: it marks the folder as a run
                observer.begins(folder, trainer)
                watch.begin(f"training {stage.name}".strip())
                steps = optimise(folder, trainer, stop=lambda: any_process(stop(), device))
                for _ in observer.steps(folder, trainer, steps):
                    pass
                if state.step < stage.config.steps:
                    return Outcome(run, state, finished=False, seconds=watch.seconds())
                scene = state.scene
            written = None
            if is_first():
                saved = SavedScene(state.step, state.scene.averaged, read_identity(folder.prior))
                written = finish(run, trainer.config, saved, observer, watch)
                rounded = {stage: round(s, 2) for stage, s in watch.seconds().items()}
                write_text(run.durations, json.dumps(rounded, indent=1) + "\n")
    return Outcome(run, state, finished=True, seconds=watch.seconds(), export=written)


class _Priors:
    """The priors of a plan's stages. Each is loaded when a stage needs it, one at a time."""

    def __init__(self, plan: Plan, device: str) -> None:
        self._plan, self._device = plan, device
        self._current: tuple[PriorConfig, Prior] | None = None

    def of(self, planned: PlannedStage) -> Prior:
        options = planned.stage.config.prior
        if not isinstance(planned.prior, FoundPrior):
            return planned.prior
        if self._current is None or self._current[0] != options:
            self._current = None  # free its memory
            local = share(planned.stage.config.camera.views, group_size(planned.prior))
            views, texts = local.stop - local.start, self._texts(options)
            loaded = load_prior(
                planned.prior, options, device=self._device, prompts=texts, views=views
            )
            self._current = (options, loaded)
        return self._current[1]

    def _texts(self, options: PriorConfig) -> list[str]:
        """The texts of all stages of this prior: its text encoders are freed before the first."""
        texts: dict[str, None] = {}
        for planned in self._plan.stages:
            config = planned.stage.config
            if config.prior == options:
                texts |= dict.fromkeys(texts_of(planned.prior.card.vocabulary, config))
        return list(texts)


def finish(
    run: RunFolder, config: Config, saved: SavedScene, observer: Observer, watch: Stopwatch
) -> Export:
    """Make the mesh and the scene's own file, then the video of a trained run. Without a video
    encoder, warns and writes no video. Raises MeshError."""

    def stage(text: str) -> None:
        watch.begin(text)
        observer.stage(text)

    written = write_model(run.mesh / "model.glb", saved, config, say=stage)
    for name, write in islice(saved.scene.writers().items(), 1):
        write(run.mesh / name)
        written.files.append(run.mesh / name)
    observer.exported(written)
    watch.begin("drawing the video")
    output, draw = config.output, draw_mesh(written.model)
    # A front view at an angle.
    write_png(draw(show_cameras(12, config.camera)[1:2], THUMBNAIL_SIZE, "color")[0], run.thumbnail)
    count, background = output.video_frames, torch.tensor(config.background.color)
    cameras = show_cameras(count, config.camera)
    frames = turntable_frames(draw, cameras, size=output.video_size, modes=["color"])
    try:
        shown = observer.frames(frames, count)
        write_turntable(shown, run.video, count=count, background=background)
    except NoEncoder as error:
        warnings.warn(RunWarning(f"no {run.video.name}: {error}"), stacklevel=2)
    return written


def _folder(where: Path | RunFolder | Destination) -> RunFolder:
    """The folder of the run; the first process creates it if necessary."""
    if isinstance(where, RunFolder):
        return where
    if isinstance(where, Destination):
        where = where.prepare() if is_first() else where.path
    return RunFolder(from_first(create_run(where).path if is_first() else where))


@contextmanager
def _exclusive_lock(run: RunFolder) -> Iterator[None]:
    """Lock the run and remove temporary files of a killed process, in the first process only."""
    if not is_first():
        yield
        return
    with locked(run):
        for folder in (run.path, *(path for path in run.path.rglob("*") if path.is_dir())):
            remove_leftovers(folder)
        yield


def _note_prior(run: RunFolder, planned: PlannedStage) -> None:
    """Record the identity of a stage's prior, or warn if it differs from the recorded one."""
    folder, found = planned.stage.folder(run), planned.prior
    if not folder.prior.is_file():
        content = json.dumps(asdict(identify(found)), indent=1, ensure_ascii=False)
        write_text(folder.prior, content + "\n")
    elif prior_before(run, planned):
        text = f"the weights of {found.name} differ from those that {folder.path} started with"
        warnings.warn(RunWarning(text), stacklevel=3)


@contextmanager
def _explain_full_disk(run: RunFolder) -> Iterator[None]:
    """Convert an error of the file system, such as a full disk, to a RunError with advice."""
    try:
        yield
    except BrokenPipeError:  # standard output was closed
        raise
    except OSError as error:
        found = checkpoints(run.checkpoints)
        intact = f"The checkpoint at step {step_of(found[-1])} is intact. " if found else ""
        reason = error.strerror or one_line(error)
        advice = "Free some disk space" if error.errno == errno.ENOSPC else "Fix this"
        raise RunError(
            f"cannot write {error.filename or run.path}: {reason}. {intact}{advice}, then run: "
            f"{command('resume', run.path)}"
        ) from error


def _state(run: RunFolder, config: Config, prior: Prior, start: Scene | None) -> TrainState:
    """The state to resume from. A run that was killed before its first checkpoint starts over with
    the same seed."""
    state = new_state(config, prior, start=start)
    if not checkpoints(run.checkpoints):
        return state
    load_checkpoint(run.checkpoints, state)
    if config.steps < state.step:
        raise UserError(f"{run.path} is already at step {state.step}, past {config.steps}")
    if is_first():
        set_aside_damaged(run.checkpoints, state.step)
        keep_newest(run.checkpoints, config.output.checkpoints_kept)  # a killed run may leave more
    return state


def optimise(
    run: RunFolder, trainer: Trainer, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[StepMetrics]:
    """Take the remaining steps and yield their metrics, until `stop` returns True between steps.

    Ends with a checkpoint of the last step. With several processes, only the first one writes
    files. After a rollback, steps are repeated; see `_roll_back`. Raises TrainingError.
    """
    beginning: dict[str, Tensor] = {}
    if trainer.state.step == 0:
        beginning = {name: value.clone() for name, value in tensors_of(trainer.state).items()}
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
        if state.step == 0 and state.scene.has_shape:
            write_preview(run, state, config)
        for metrics in steps:
            run.require()
            log(metrics.as_mapping())
            if events is not None:
                for name, value in scalars(metrics.as_mapping()).items():
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
        restore(state, beginning, {"step": 0})
    state.rollbacks, state.rolled_back_at = rollbacks, failed_at
    new_seed = int(torch.randint(2**62, (), generator=state.generator)) + rollbacks
    state.generator.manual_seed(new_seed)
    warning = (
        f"{error}; rolling back to step {state.step}, with learning rates times "
        f"{0.5**rollbacks:g} (rollback {rollbacks} of {MAX_ROLLBACKS})"
    )
    if is_first():
        warnings.warn(RunWarning(warning), stacklevel=2)


def write_preview(run: RunFolder, state: TrainState, config: Config) -> Path:
    """Write a row of views, 90 degrees apart, front first. The file is named after the step."""
    path = run.previews / f"step_{state.step:07d}.png"
    draw, cameras = draw_scene(state.scene.averaged), show_cameras(PREVIEW_VIEWS, config.camera)
    views = turntable_frames(draw, cameras, size=PREVIEW_SIZE, modes=["color"])
    images = over(torch.stack(list(views)), torch.tensor(config.background.color))
    write_png(contact_sheet(images, columns=PREVIEW_VIEWS), path)
    return path
