"""The folder of a run: what lies where, finding a free name, the log of metrics. No torch."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from dreamfusion.config.schema import Config, build_config, read_yaml, to_yaml
from dreamfusion.utils.errors import UserError
from dreamfusion.utils.whole_file import whole_file


class RunError(UserError):
    """A folder that holds no run, or cannot hold one."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def checkpoints(self) -> Path:
        """The newest few checkpoints."""
        return self.path / "checkpoints"

    @property
    def previews(self) -> Path:
        """A row of views now and then."""
        return self.path / "previews"

    def preview_files(self) -> list[Path]:
        """The previews that are there, oldest first."""
        return sorted(self.previews.glob("step_*.png"))

    @property
    def metrics(self) -> Path:
        """One line of JSON a step."""
        return self.path / "metrics.jsonl"

    @property
    def video(self) -> Path:
        """The turntable."""
        return self.path / "video.mp4"

    @property
    def mesh(self) -> Path:
        """Exported meshes."""
        return self.path / "mesh"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files, where the settings want them."""
        return self.path / "tensorboard"

    def read_config(self) -> Config:
        """The configuration that the run was started with."""
        return build_config(read_yaml(self.config))

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration, whole or not at all."""
        with whole_file(self.config) as file:
            file.write_text(to_yaml(config), encoding="utf-8")


def preview_step(path: Path) -> int:
    """The step that a preview's name gives. Raises ValueError for another file's name."""
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


def create_run(path: Path) -> RunFolder:
    """A new folder for a run at `path`, or under the next free name where something is there.

    An empty folder is taken as it is. Raises RunError where none can be made.
    """
    path = path.expanduser()
    path = path if path.name not in ("", "..") else path.resolve()
    try:
        if path.is_dir() and not any(path.iterdir()):
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


def open_run(path: Path) -> RunFolder:
    """The run at `path`. Raises RunError if there is none."""
    run = RunFolder(path)
    if not path.is_dir():
        raise RunError(f"there is no folder {path}")
    if not run.config.is_file():
        raise RunError(f"{path} holds no run: there is no config.yaml in it")
    return run


class MetricsLog:
    """Appends lines to a run's metrics.jsonl; a context manager.

    after: the last step that counts. Lines of later steps, left by a run that was killed after
    its last checkpoint, are dropped: those steps are done again.
    """

    def __init__(self, path: Path, *, after: int) -> None:
        kept = [line for line in _lines(path) if _step_of(line) <= after]
        with whole_file(path) as file:
            file.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Append one line, at once."""
        self._file.write(json.dumps(metrics) + "\n")
        self._file.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What of a step's metrics is a curve: its numbers, and the mean of a list of numbers.

    >>> scalars({"step": 3, "shading": "albedo", "size": 32, "timesteps": [100, 300]})
    {'size': 32.0, 'timesteps': 200.0}
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if name != "step" and numbers and len(numbers) == len(values):
            found[name] = float(sum(numbers)) / len(numbers)
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def _step_of(line: str) -> float:
    """The step of a line; infinity for one that was cut short."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
