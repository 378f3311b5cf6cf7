"""The folder that a user chose for a new run. The user's own files in it are never deleted."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from dreamfusion.runs.folder import RunError, RunFolder, is_unused
from dreamfusion.utils.atomic_write import is_leftover
from dreamfusion.utils.commands import command
from dreamfusion.utils.errors import UserError

# Name patterns of all files that commands write into the folder of a run.
_WRITTEN = (
    "config.yaml", "layers.yaml", "metrics.jsonl", "stages.json", "prior.json", "video.mp4",
    "thumbnail.png", ".lock", "checkpoints", "previews", "mesh", "stages", "start", "tensorboard",
    "render-*", "report*.html", "evaluation.*",
)  # fmt: skip


@dataclass(frozen=True)
class Destination:
    """The folder for a new run. overwrite: replace an existing run there."""

    path: Path
    overwrite: bool = False

    def check(self) -> None:
        """Raise RunError if the folder contains something that a new run must not replace."""
        folder = self.path.expanduser()
        run = RunFolder(folder)
        if is_unused(folder):
            return
        if not folder.is_dir():
            raise RunError(f"{self.path} is a file; choose another folder with --out")
        if not run.config.is_file():
            raise RunError(
                f"{self.path} is not empty and contains no run; choose another folder with --out"
            )
        if not self.overwrite:
            resume = command("resume", self.path)
            raise RunError(
                f"{self.path} already contains a run; to resume it: {resume}; to replace it, add "
                "--overwrite; or choose another folder with --out"
            )
        try:
            run.read_config()
        except UserError:
            raise RunError(
                f"cannot overwrite {self.path}: {run.config.name} is not from a dreamfusion run"
            ) from None
        for found in sorted(folder.iterdir()):
            if not (is_leftover(found) or any(found.match(name) for name in _WRITTEN)):
                raise RunError(
                    f"cannot overwrite {self.path}: {found.name} in it is not part of a run; move "
                    "it, or choose another folder with --out"
                )

    def prepare(self) -> Path:
        """Remove an existing run if requested, and return the path. Raises RunError as `check`
        does, and if another process trains that run."""
        self.check()
        folder = self.path.expanduser()
        if not is_unused(folder):
            from dreamfusion.runs.folder import locked  # imported here to keep --help fast

            with locked(RunFolder(folder)):
                _remove_run(RunFolder(folder))
        return folder


def _remove_run(run: RunFolder) -> None:
    """Remove everything but the lock, which is held. The settings are removed last: if the process
    is killed meanwhile, the folder still counts as a run and can be overwritten."""
    for found in sorted(run.path.iterdir(), key=lambda path: path == run.config):
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        elif found != run.lock:
            found.unlink()
