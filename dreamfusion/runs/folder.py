"""The folder of a run: its files, its name, its lock and its stages. Imports no torch.

The stages of a run are consecutive optimisations. The first one uses the run's configuration. Each
further stage is an entry of `stages`, a layer on top of that configuration, and starts from the
scene of the previous stage. The first stage writes to the folder of the run, the others to
RUN/stages/NAME, with the same files. Mesh and video are made of the last stage only.
"""

from __future__ import annotations

import itertools
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dreamfusion.config.layers import (
    ConfigError,
    Layer,
    build_config,
    read_yaml,
    to_mapping,
    to_yaml,
)
from dreamfusion.config.nested import with_new_names
from dreamfusion.config.schema import Config
from dreamfusion.utils.errors import RunWarning, UserError, command
from dreamfusion.utils.files import is_leftover, unsupported, write_text

# Name patterns of all files that commands write into the folder of a run.
_WRITTEN = (
    "config.yaml", "layers.yaml", "metrics.jsonl", "stages.json", "prior.json", "video.mp4",
    "thumbnail.png", ".lock", "checkpoints", "previews", "mesh", "stages", "start", "tensorboard",
    "render-*", "report*.html", "evaluation.*",
)  # fmt: skip


class RunError(UserError):
    """A folder that contains no run, or cannot be used for one."""


class Inside:
    """A path inside the folder of a run, a job or a batch."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: Any, _: type) -> Path:
        return Path(folder.path / self._name)


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    path: Path

    config = Inside("config.yaml")  # the resolved configuration
    layers = Inside("layers.yaml")  # the layer of each setting
    prior = Inside("prior.json")  # the prior's identity, with a hash of its weights
    lock = Inside(".lock")  # held by the process that trains
    checkpoints = Inside("checkpoints")  # the newest few
    previews = Inside("previews")  # a row of views every few steps
    metrics = Inside("metrics.jsonl")  # one line of JSON per step
    tensorboard = Inside("tensorboard")  # event files, if the settings enable them
    durations = Inside("stages.json")  # seconds of each part, in the process that finished
    video = Inside("video.mp4")  # the turntable
    thumbnail = Inside("thumbnail.png")  # the object, on a transparent background
    mesh = Inside("mesh")  # exported meshes

    @property
    def start(self) -> RunFolder:
        """A copy of the scene that the run started from."""
        return RunFolder(self.path / "start")

    def preview_files(self) -> list[Path]:
        """All previews, oldest first."""
        return sorted(self.previews.glob("step_*.png"))

    def require(self) -> None:
        """Raise RunError if the folder disappeared during the run."""
        if not self.path.is_dir():
            raise RunError(f"{self.path} is gone: it was removed or renamed during the run")

    def read_config(self) -> Config:
        """The run's resolved configuration. Raises ConfigError."""
        return build_config(read_yaml(self.config))

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration atomically."""
        write_text(self.config, to_yaml(config))

    def read_layers(self) -> list[Layer]:
        """The layers that the configuration was built from, lowest first; none without a file.
        Raises ConfigError for a malformed file."""
        if not self.layers.is_file():
            return []
        found = read_yaml(self.layers)
        if not all(isinstance(settings, dict) for settings in found.values()):
            raise ConfigError(f"{self.layers} must map the names of layers to settings")
        return [Layer(str(name), settings) for name, settings in found.items()]

    def write_layers(self, layers: Sequence[Layer]) -> None:
        """Write the layers that the configuration was built from, lowest first. Old names of
        settings are replaced by the new ones."""
        content = {layer.name: dict(with_new_names(layer.settings)) for layer in layers}
        write_text(self.layers, to_yaml(content))


def slug(prompt: str) -> str:
    """A folder name for a prompt: lower-case words joined by hyphens, at most 60 characters."""
    words = re.findall(r"[^\W_]+", prompt.lower())
    name = "-".join(words)[:60].rstrip("-") or "object"
    # Windows reserves these names for devices.
    return f"a-{name}" if re.fullmatch(r"con|prn|aux|nul|com\d|lpt\d", name) else name


def step_of(path: Path) -> int:
    """The step in the name of a preview or a checkpoint. Raises ValueError for other names."""
    return int(path.stem.removeprefix("step_"))


def free_path(path: Path, *, suffix: str = "") -> Path:
    """`path` if it is free, else the first free one of path-2, path-3, …

    suffix: the file suffix, such as ".png"; the number is inserted before it.
    """
    if not path.exists():
        return path
    stem = path.name.removesuffix(suffix)
    candidates = (path.with_name(f"{stem}-{n}{suffix}") for n in itertools.count(2))
    return next(candidate for candidate in candidates if not candidate.exists())


def is_unused(path: Path) -> bool:
    """Whether `path` does not exist, is an empty folder, or contains only files of a run that was
    killed before it began."""
    run = RunFolder(path)
    if not path.is_dir():
        return not path.exists()
    early_files = (run.lock, run.layers, run.prior)
    return all(file in early_files or is_leftover(file) for file in path.iterdir())


def create_run(path: Path) -> RunFolder:
    """Create a folder for a run at `path`, or under the next free name if `path` is in use.

    Returns an existing unused folder; see `is_unused`. Raises RunError if no folder can be created.
    """
    path = path.expanduser()
    path = path if path.name not in ("", "..") else path.resolve()
    try:
        if path.is_dir() and is_unused(path):
            return RunFolder(path)
        while True:
            free = free_path(path)
            try:
                free.mkdir(parents=True)
                return RunFolder(free)
            except FileExistsError:
                if not free.exists():
                    raise
                # Another process has just created it: try the next name.
    except OSError as error:
        raise RunError(f"cannot create {path}: {error.strerror or error}") from None


def find_run(path: Path) -> RunFolder:
    """The run at `path`. Raises RunError if there is none."""
    run = RunFolder(path)
    if not path.is_dir():
        elsewhere = Path("runs") / path
        hint = f"; did you mean {elsewhere}?" if elsewhere.is_dir() else ""
        raise RunError(f"no such folder: {path}{hint}")
    if not run.config.is_file():
        inside = next((file.parent for file in sorted(path.glob("*/config.yaml"))), None)
        hint = f"; name a run in it, such as {inside}" if inside else ": it has no config.yaml"
        raise RunError(f"{path} contains no run{hint}")
    return run


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Lock the folder of a run against other trainers during the block. Readers are not blocked.

    The operating system releases the lock when the process ends, even if it is killed. Raises
    RunError if another process holds the lock. Warns on file systems without locks.
    """
    from filelock import FileLock, Timeout  # imported here to keep --help fast

    lock = FileLock(run.lock, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{run.path} is being trained by another process; stop that process first, or choose "
            "another folder with --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and not unsupported(error):
            raise
        warnings.warn(
            RunWarning(f"{run.path}: this file system has no file locks; start one trainer only"),
            stacklevel=2,
        )
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Stage:
    """One optimisation, with its complete configuration. name: "" for the first."""

    name: str
    config: Config

    def folder(self, run: RunFolder) -> RunFolder:
        """The folder of its checkpoints, metrics and previews."""
        return RunFolder(run.path / "stages" / self.name) if self.name else run


def stages_of(config: Config) -> list[Stage]:
    """All stages of a configuration, in order. Raises ConfigError."""
    first = replace(config, stages={})
    stages = [Stage("", first)]
    for name, changes in config.stages.items():
        if not re.fullmatch(r"[\w-]{1,40}", name):
            raise ConfigError(f"a stage's name has letters, digits, - and _; not {name!r}")
        if "stages" in changes or "start" in changes:
            raise ConfigError(f"stages.{name}: a stage cannot set stages or start")
        stages.append(Stage(name, build_config(to_mapping(replace(first, start="")), changes)))
    return stages


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
        try:
            run.read_config()
        except UserError:
            raise RunError(
                f"{self.path} is not empty and contains no run; choose another folder with --out"
            ) from None
        if not self.overwrite:
            resume = command("resume", self.path)
            raise RunError(
                f"{self.path} already contains a run; to resume it: {resume}; to replace it, add "
                "--overwrite; or choose another folder with --out"
            )
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
            run = RunFolder(folder)
            with locked(run):
                # The settings last: if the process is killed meanwhile, the folder still counts as
                # a run and can be overwritten.
                for found in sorted(folder.iterdir(), key=lambda path: path == run.config):
                    if found.is_dir() and not found.is_symlink():
                        shutil.rmtree(found)
                    elif found != run.lock:
                        found.unlink()
        return folder
