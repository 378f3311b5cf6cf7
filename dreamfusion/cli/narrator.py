"""Prints the progress of a run, and the files, size and quality of its mesh."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from torch import Tensor

from dreamfusion.cli.console import Console
from dreamfusion.cli.stopping import Stopping
from dreamfusion.mesh.printing import LEAST_WALL_MM
from dreamfusion.runs.export import Export, Print
from dreamfusion.runs.folder import RunFolder
from dreamfusion.runs.train import Observer, Outcome
from dreamfusion.studio.library import SingleRun
from dreamfusion.studio.server import serving
from dreamfusion.training.state import render_size
from dreamfusion.training.trainer import StepMetrics, Trainer
from dreamfusion.utils.distributed import is_first
from dreamfusion.utils.errors import command
from dreamfusion.utils.threads import n_workers


class Narrator(ExitStack, Observer):
    """A context manager that prints the progress of a run and, with `view`, serves its page."""

    def __init__(self, console: Console, stopping: Stopping, view: bool) -> None:
        super().__init__()
        self.console, self.stopping, self._view = console, stopping, view

    def begins(self, run: RunFolder, trainer: Trainer) -> None:
        say, detail = self.console.say, self.console.detail
        config, prior = trainer.config, trainer.prior
        threads = f", {n_workers()} threads" if config.device == "cpu" else ""
        first, *more = prior.about() if hasattr(prior, "about") else [prior.name]
        detail(f"prior     {first}")
        detail(f"device    {config.device}{threads}, prior in {config.prior.dtype}")
        for line in (*more, *trainer.state.scene.about()):
            detail(line)
        step = trainer.state.step
        say(f"run       {run.path}")
        if self._view and is_first():
            server = self.enter_context(serving(SingleRun(run)))
            say(f"view      {server.url} (until the run ends)")
            self._view = False  # served once, for all stages
        steps = f"{config.steps}" if step == 0 else f"{step} to {config.steps}"
        say(f"steps     {steps}" + f", {config.camera.views} views each" * self.console.verbose)
        detail(
            "metrics   opacity: mean over the images; entropy: of opacity, 0 if pixels are solid"
        )
        detail("          or empty, 1 at most; SDS gradient: strength of the prior's gradient")

    def steps(
        self, run: RunFolder, trainer: Trainer, steps: Iterator[StepMetrics]
    ) -> Iterable[StepMetrics]:
        config = trainer.config
        sizes = [render_size(config, config.progress(step)) for step in range(config.steps)]
        with self.stopping.training():
            yield from self.console.steps(steps, sizes)

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
        say, detail = self.console.say, self.console.detail
        run, written = outcome.run, outcome.export
        if written is None:  # another process wrote it
            return {}
        video = run.video if run.video.exists() else None
        if video is not None:
            say(f"video     {video}")
        detail(f"previews  {run.previews}")
        detail(f"settings  {run.config}")
        detail(f"metrics   {run.metrics}")
        say(f"to view   {command('view', run.path)}")
        say(f"to export {command('export', run.path, '-o', f'{run.path.name}.obj')}")
        detail(f"to report {command('report', run.path)}")
        detail(f"to extend {command('resume', run.path, '--steps', outcome.state.step * 2)}")
        report = {"run": run.path, "step": outcome.state.step, "finished": True, "video": video}
        return report | mesh_report(written)


def print_mesh(console: Console, written: Export) -> None:
    """Print the files of a mesh, its size, and its similarity to the scene."""
    shape, agreement = written.topology, written.agreement
    pieces = "1 piece" if shape.components == 1 else f"{shape.components} pieces"
    holes = "closed" if shape.watertight else "with holes: not watertight"
    size = " x ".join(f"{side:.2f}" for side in shape.size)
    for i, file in enumerate(written.files):
        console.say(f"{'' if i else 'mesh':<10}{file}")
    console.say(f"          {shape.faces:,} faces, {pieces}, {holes}")
    console.detail(f"          {shape.vertices:,} vertices, size {size}, volume {shape.volume:.3f}")
    console.detail(
        f"          compared with the scene: PSNR {agreement.psnr_db:.1f} dB, silhouette IoU "
        f"{agreement.silhouette_iou:.3f}"
    )
    if not agreement.good:
        console.say(
            "          the mesh differs from the scene: train longer, or export with a higher "
            "--resolution, more --faces or another --threshold"
        )


def print_print(console: Console, printed: Print) -> None:
    """Print the file, size and walls of a mesh for a 3D printer."""
    size = " x ".join(f"{side:.1f}" for side in printed.size_mm)
    pieces = "1 piece" if printed.parts == 1 else f"{printed.parts} separate pieces"
    console.say(f"print     {printed.files[0]}")
    console.say(f"          {size} mm, {printed.faces:,} faces, {pieces}, closed, flat base")
    if printed.thin_mm3 > 0:
        thin = f"{printed.thin_mm3:.0f} mm^3 of walls below {LEAST_WALL_MM} mm"
        console.say(f"          {thin}, which may break: use a larger --size-mm")


def mesh_report(written: Export) -> dict[str, Any]:
    """The output of `print_mesh` as a mapping, for --json."""
    return {"mesh": written.files, "checks": asdict(written.topology) | asdict(written.agreement)}
