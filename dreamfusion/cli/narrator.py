"""Prints the progress of a run."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dreamfusion.cli.console import Console
from dreamfusion.cli.page import open_page
from dreamfusion.cli.results import mesh_report, print_mesh
from dreamfusion.cli.stopping import Stopping
from dreamfusion.runs.export import Export
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.train import Observer, Outcome
from dreamfusion.training.trainer import StepMetrics, Trainer
from dreamfusion.training.views import render_size
from dreamfusion.utils.commands import command
from dreamfusion.utils.distributed import is_first
from dreamfusion.utils.threads import n_workers
from dreamfusion.viewer.page import Page
from dreamfusion.viewer.serve import watch


class Narrator(Observer):
    """Prints the progress of a run, and updates its page in the browser, if any."""

    def __init__(self, console: Console, stopping: Stopping) -> None:
        self.console, self.stopping = console, stopping
        self.page: Page | None = None

    @contextmanager
    def live_page(self, title: str, view: bool) -> Iterator[None]:
        """With `view`, serve the page of the run during the block, in the first process only."""
        if not view or not is_first():
            yield
            return
        with open_page(self.console, title) as self.page:
            yield

    def begins(self, run: RunFolder, trainer: Trainer) -> None:
        say, config, prior = self.console.say, trainer.config, trainer.prior
        threads = f", {n_workers()} threads" if config.device == "cpu" else ""
        first, *more = prior.about() if hasattr(prior, "about") else [prior.name]
        say(f"prior     {first}")
        say(f"device    {config.device}{threads}, prior in {config.prior.dtype}")
        for line in (*more, *trainer.state.scene.about()):
            say(line)
        step = trainer.state.step
        say(f"run       {run.path}")
        steps = f"{config.steps}" if step == 0 else f"{step} to {config.steps}"
        say(f"steps     {steps}, {config.camera.views} views each")
        say(
            "metrics   opacity: mean over the images; entropy: of opacity, 0 when every pixel\n"
            "          is solid or empty, 1 at most; SDS gradient: strength of the prior's\n"
            "          gradient"
        )

    def steps(
        self, run: RunFolder, trainer: Trainer, steps: Iterator[StepMetrics]
    ) -> Iterable[StepMetrics]:
        config, done = trainer.config, trainer.state.step
        if self.page is not None:
            steps = watch(self.page, run, trainer.state, config, steps)
        sizes = [render_size(config, config.progress(step)) for step in range(config.steps)]
        with self.stopping.training():
            yield from self.console.steps(steps, sizes=sizes, done=done)

    def stage(self, text: str) -> None:
        self.stopping.check()
        self.console.say(f"          {text}")

    def exported(self, written: Export) -> None:
        print_mesh(self.console, written)

    def frames(self, images: Iterable[Tensor], count: int) -> Iterable[Tensor]:
        for image in self.console.track(images, count, "images"):
            self.stopping.check()
            yield image

    def print_written(self, outcome: Outcome) -> dict[str, Any]:
        """Print the paths of all written files, and return the report for --json."""
        say, run, written = self.console.say, outcome.run, outcome.export
        if written is None:  # another process wrote it
            return {}
        video = run.video if run.video.exists() else None
        if video is not None:
            say(f"video     {video}")
        say(f"previews  {run.previews}")
        say(f"settings  {run.config}")
        say(f"metrics   {run.metrics}")
        say(f"to report {command('report', run.path)}")
        say(f"to view   {command('view', run.path)}")
        say(f"to extend {command('resume', run.path, '--steps', outcome.state.step * 2)}")
        report = {"run": run.path, "step": outcome.state.step, "finished": True, "video": video}
        return report | mesh_report(written)
