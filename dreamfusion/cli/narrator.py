"""Prints the progress of a run."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from dreamfusion.cli.console import Console
from dreamfusion.cli.results import print_mesh
from dreamfusion.cli.stopping import Stopping
from dreamfusion.runs.export import Export
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.train import Observer
from dreamfusion.training.trainer import StepMetrics, Trainer
from dreamfusion.training.views import render_size
from dreamfusion.utils.threads import n_workers

if TYPE_CHECKING:
    from dreamfusion.viewer.page import Page


class Narrator(Observer):
    """Prints the progress of a run, and updates its page in the browser, if any."""

    def __init__(self, console: Console, stopping: Stopping) -> None:
        self.console, self.stopping = console, stopping
        self.page: Page | None = None

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
            from dreamfusion.viewer.serve import watch

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
