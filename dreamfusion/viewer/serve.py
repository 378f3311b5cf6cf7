"""Serves a page for the folder of a run, or for a run during training."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dreamfusion.config.schema import Config
from dreamfusion.graphics.cameras import show_cameras
from dreamfusion.runs.checkpoint import CheckpointError, SavedScene
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.metrics import newest_metrics
from dreamfusion.training.state import TrainState
from dreamfusion.training.trainer import StepMetrics
from dreamfusion.utils.devices import choose_device
from dreamfusion.viewer.follow import Follower
from dreamfusion.viewer.meshes import read_model
from dreamfusion.viewer.page import Page
from dreamfusion.viewer.stage import Stage

POLL_SECONDS = 1.0  # between polls of the folder of a run
SHARE = 0.25  # maximum share of time for the page during training
LIVE_REST_SECONDS = 0.4  # maximum time for one image during training


def serve_run(page: Page, run: RunFolder, *, stop: Callable[[], bool] = lambda: False) -> None:
    """Show the newest checkpoint of a run on a page, and each new one, until `stop` or Ctrl-C.
    Raises CheckpointError if the first one cannot be read."""
    config = run.read_config()
    page.start_at(show_cameras(1, config.camera))
    follower = Follower(run, choose_device("auto"))
    stage = Stage(page, config, own_model=lambda step: read_model(run.mesh / "model.glb", step))
    shown_step, last_poll = -1, float("-inf")
    while not stop():
        if time.monotonic() - last_poll >= POLL_SECONDS:
            saved = follower.newer()
            if saved is not None:
                shown_step = saved.step
                stage.show(saved)
            elif shown_step < 0 and follower.problem:
                raise CheckpointError(follower.problem)
            page.offer_previews(run.preview_files())
            page.status(_status(config, run, shown_step, follower.problem))
            last_poll = time.monotonic()
        page.woken.clear()
        if not stage.work():
            page.woken.wait(0.1)


def watch(
    page: Page,
    run: RunFolder,
    state: TrainState,
    config: Config,
    steps: Iterable[StepMetrics],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[StepMetrics]:
    """Yield the steps, and update the page between them, in this thread.

    Renders at most one image or mesh between two steps, and then none until training has run for
    three times as long; nothing without visitors. Rendering does not change the state or its
    generator.
    """
    page.start_at(show_cameras(1, config.camera))
    stage = Stage(page, config, rest_seconds=LIVE_REST_SECONDS, clock=clock)
    page.status(f"**{config.prompt}**\n\nwaiting for the first step")
    idle_until = last_status = float("-inf")
    for metrics in steps:
        now = clock()
        if now - last_status >= POLL_SECONDS or state.step >= config.steps:
            at = f"step {metrics.step} of {config.steps}, {metrics.seconds:.1f} s"
            page.status("\n\n".join([f"**{config.prompt}**", at, _describe(metrics.as_mapping())]))
            page.offer_previews(run.preview_files())
            last_status = now
        if now >= idle_until:
            stage.show(SavedScene(state.step, state.scene.averaged))
            if stage.work():
                spent = clock() - now
                idle_until = clock() + spent * (1 / SHARE - 1)
        yield metrics
    page.status(f"**{config.prompt}**\n\nstep {state.step} of {config.steps}: training has ended")


def _status(config: Config, run: RunFolder, shown_step: int, problem: str) -> str:
    metrics = (newest_metrics(run.metrics) or [{"step": shown_step}])[-1]
    step = metrics["step"]
    lines = [f"**{config.prompt}**", f"checkpoint of step {shown_step}, of {config.steps}"]
    if step > shown_step:
        lines.append(f"the run is at step {step}: {_describe(metrics)}")
    if problem:
        lines.append(problem)
    return "\n\n".join(lines)


def _describe(metrics: dict[str, Any]) -> str:
    """The metrics, as on the command line."""
    return (
        f"opacity {metrics.get('opacity', 0.0):.0%}, entropy {metrics.get('entropy', 0.0):.2f}, "
        f"SDS gradient {metrics.get('sds_gradient', 0.0):.2f}"
    )
