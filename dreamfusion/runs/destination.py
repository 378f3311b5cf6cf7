"""A folder that the user named for a new run: exactly this one, and only if nothing is lost."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from dreamfusion.runs.folder import RunError, RunFolder, is_unused
from dreamfusion.utils.atomic_write import is_leftover
from dreamfusion.utils.commands import command
from dreamfusion.utils.errors import UserError

# What commands write into a run's folder, as patterns of names.
_WRITTEN = (
    "config.yaml", "layers.yaml", "metrics.jsonl", "stages.json", "prior.json", "video.mp4",
    ".lock", "checkpoints", "previews", "mesh", "stages", "start", "tensorboard", "render-*",
    "report*.html", "evaluation.*",
)  # fmt: skip


@dataclass(frozen=True)
class Destination:
    """Where a new run is to be. overwrite: remove a run that is there."""

    path: Path
    overwrite: bool = False

    def check(self) -> None:
        """Raises RunError where something is there that a new run may not replace."""
        folder = self.path.expanduser()
        run = RunFolder(folder)
        if is_unused(folder):
            return
        if not folder.is_dir():
            raise RunError(f"{self.path} is a file; choose another folder with --out")
        if not run.config.is_file():
            raise RunError(
                f"{self.path} is not empty and holds no run; choose another folder with --out"
            )
        if not self.overwrite:
            resume = command("resume", self.path)
            raise RunError(
                f"{self.path} already holds a run; to continue it: {resume}; to replace it, add "
                "--overwrite; or choose another folder with --out"
            )
        try:
            run.read_config()
        except UserError:
            raise RunError(
                f"{self.path} is not overwritten: {run.config.name} is not of a dreamfusion run"
            ) from None
        for found in sorted(folder.iterdir()):
            if not (is_leftover(found) or any(found.match(name) for name in _WRITTEN)):
                raise RunError(
                    f"{self.path} is not overwritten: {found.name} in it is not of a run; move it, "
                    "or choose another folder with --out"
                )

    def prepare(self) -> Path:
        """The path, after removing the run that is there if that is wanted. Raises RunError as
        `check` does, and where another process trains that run."""
        self.check()
        folder = self.path.expanduser()
        if not is_unused(folder):
            from dreamfusion.runs.lock import locked  # here: help needs no package of locks

            with locked(RunFolder(folder)):
                _remove_run(RunFolder(folder))
        return folder


def _remove_run(run: RunFolder) -> None:
    """Remove everything but the lock, which is held. The settings go last: without them, what a
    kill leaves would be no run, and nothing would remove it."""
    for found in sorted(run.path.iterdir(), key=lambda path: path == run.config):
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        elif found != run.lock:
            found.unlink()
