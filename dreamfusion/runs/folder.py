"""The folder of a run: its name, what lies where, and finding a free name. No torch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dreamfusion.config.layers import ConfigError, Layer, build_config, read_yaml, to_yaml
from dreamfusion.config.renamed import with_new_names
from dreamfusion.config.schema import Config
from dreamfusion.utils.atomic_write import atomic_write, is_leftover
from dreamfusion.utils.errors import UserError

# Windows' names of devices, in whatever folder.
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{p}{n}" for p in ("COM", "LPT") for n in range(10))}


class RunError(UserError):
    """A folder that holds no run, or cannot hold one."""


class _Inside:
    """The path of something in a run's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: RunFolder, _: type) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    path: Path

    config = _Inside("config.yaml")  # the resolved configuration
    layers = _Inside("layers.yaml")  # which layer each setting comes from
    prior = _Inside("prior.json")  # which model the prior is, and a hash of its weights
    lock = _Inside(".lock")  # held by the process that trains
    checkpoints = _Inside("checkpoints")  # the newest few
    previews = _Inside("previews")  # a row of views now and then
    metrics = _Inside("metrics.jsonl")  # one line of JSON a step
    tensorboard = _Inside("tensorboard")  # its event files, where the settings want them
    durations = _Inside("stages.json")  # seconds of each part, in the process that finished
    video = _Inside("video.mp4")  # the turntable
    mesh = _Inside("mesh")  # exported meshes

    @property
    def start(self) -> RunFolder:
        """The scene that the run started from, copied."""
        return RunFolder(self.path / "start")

    def preview_files(self) -> list[Path]:
        """The previews that are there, oldest first."""
        return sorted(self.previews.glob("step_*.png"))

    def require(self) -> None:
        """Raises RunError where the folder has gone while its run was at work."""
        if not self.path.is_dir():
            raise RunError(f"{self.path} is gone: somebody removed or renamed it during the run")

    def read_config(self) -> Config:
        """The configuration that the run was started with."""
        return build_config(read_yaml(self.config))

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration, whole or not at all."""
        with atomic_write(self.config) as file:
            file.write_text(to_yaml(config), encoding="utf-8")

    def read_layers(self) -> list[Layer]:
        """The layers that the configuration was built from, lowest first; none where no file says.

        Raises ConfigError for a file that is malformed.
        """
        if not self.layers.is_file():
            return []
        found = read_yaml(self.layers)
        if not all(isinstance(settings, dict) for settings in found.values()):
            raise ConfigError(f"{self.layers} must hold settings by the name of their layer")
        return [Layer(str(name), settings) for name, settings in found.items()]

    def layers_after(self, name: str, changes: Mapping[str, Any]) -> tuple[Layer, ...]:
        """The layers with one more, `name` or "name 2", …, on top; as they were without changes."""
        layers = self.read_layers()
        if not changes:
            return tuple(layers)
        taken = {layer.name for layer in layers}
        names = itertools.chain([name], (f"{name} {n}" for n in itertools.count(2)))
        free = next(candidate for candidate in names if candidate not in taken)
        return (*layers, Layer(free, changes))

    def write_layers(self, layers: Sequence[Layer]) -> None:
        """Write the layers that the configuration was built from, lowest first, by the new names
        of settings."""
        content = {layer.name: dict(with_new_names(layer.settings)) for layer in layers}
        with atomic_write(self.layers) as file:
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
            file.write_text(text, encoding="utf-8")


def slug(prompt: str) -> str:
    """A folder name for a prompt: lower-case words joined by hyphens, at most 60 characters."""
    words = re.findall(r"[^\W_]+", prompt.lower())
    name = "-".join(words)[:60].rstrip("-") or "object"
    return f"a-{name}" if name.upper() in _DEVICES else name


def step_of(path: Path) -> int:
    """The step that the name of a preview or a checkpoint gives.

    Raises ValueError for another file's name.
    """
    return int(path.stem.removeprefix("step_"))


def free_path(path: Path, *, suffix: str = "") -> Path:
    """`path` if nothing is there, else the first free one of path-2, path-3, …

    suffix: the end of the name that stays at its end, like ".png".
    """
    if not path.exists():
        return path
    stem = path.name.removesuffix(suffix)
    candidates = (path.with_name(f"{stem}-{n}{suffix}") for n in itertools.count(2))
    return next(candidate for candidate in candidates if not candidate.exists())


def is_unused(path: Path) -> bool:
    """Whether nothing is at `path`, or an empty folder, or one of a run that was killed before it
    began."""
    fresh = RunFolder(path)
    if not path.is_dir():
        return not path.exists()
    begun = (fresh.lock, fresh.layers, fresh.prior)
    return all(found in begun or is_leftover(found) for found in path.iterdir())


def create_run(path: Path) -> RunFolder:
    """A new folder for a run at `path`, or under the next free name where something is there.

    An empty folder, or one of a run that was killed before it began, is taken as it is. Raises
    RunError where none can be made.
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
                # Another process took the name just now: look for the next one.
    except OSError as error:
        raise RunError(f"cannot create {path}: {error.strerror or error}") from None


def find_run(path: Path) -> RunFolder:
    """The run at `path`. Raises RunError if there is none."""
    run = RunFolder(path)
    if not path.is_dir():
        raise RunError(f"there is no folder {path}")
    if not run.config.is_file():
        raise RunError(f"{path} holds no run: there is no config.yaml in it")
    return run
