"""Reads the folder of a run for a report. Imports no torch, to save memory during training.

Missing or broken parts are reported as notes, with the command that creates them. Only a folder
without a readable config.yaml is an error.
"""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from dreamfusion.batch.jobs import read_json
from dreamfusion.config.layers import ConfigError, sources
from dreamfusion.config.schema import Config
from dreamfusion.report.model import Model, ModelError, read_model
from dreamfusion.runs.folder import RunFolder, find_run, step_of
from dreamfusion.runs.metrics import log_age, scalars
from dreamfusion.utils.commands import command
from dreamfusion.utils.errors import one_line

MOST_PREVIEWS = 12
MOST_BYTES = 64_000_000  # of a video
MOST_SMALL_BYTES = 4_000_000
_ALIVE_SECONDS = 60.0  # a run with a more recent log may still be training

Part = Literal["run", "mesh", "video", "previews", "metrics"]


class Note(NamedTuple):
    """A missing or broken part, and the command that fixes it, if any."""

    part: Part
    text: str
    command: str | None = None


class Preview(NamedTuple):
    """A row of views at a step, as a PNG."""

    step: int
    data: bytes
    width: int
    height: int


class Video(NamedTuple):
    """A turntable, as H.264 in MP4."""

    title: str
    data: bytes


class Curve(NamedTuple):
    """A metric over the steps that have it."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunReport:
    """The content of a report on a run.

    sources: the layer of each setting, if recorded. judged: the results of `dreamfusion evaluate`,
    or empty. stages: duration of each, in seconds, for a finished run. step: the last known one.
    version: of the package that trained the run, from a checkpoint.
    """

    path: Path
    name: str
    config: Config
    sources: dict[str, str]
    version: str | None
    step: int
    curves: dict[str, Curve]
    previews: list[Preview]
    videos: list[Video]
    model_file: str | None
    model: Model | None
    judged: dict[str, Any]
    stages: dict[str, float]
    notes: list[Note]

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.config.steps

    @property
    def step_seconds(self) -> tuple[float, ...]:
        """Duration of each step, if the metrics contain it."""
        return self.curves["seconds"].values if "seconds" in self.curves else ()


def gather(path: Path) -> RunReport:
    """Read the run in a folder. Raises RunError or ConfigError if there is none."""
    folder = find_run(path)
    try:
        config, layers = folder.read_config(), folder.read_layers()
    except ConfigError as error:
        raise ConfigError(f"{folder.config}: {error}") from None
    notes: list[Note] = []
    curves = _curves(folder, notes)
    version, checkpoint_step = _newest_checkpoint(folder)
    logged = max((curve.steps[-1] for curve in curves.values()), default=0)
    step = max(checkpoint_step or 0, logged)
    if step < config.steps:
        notes.append(_stopped(folder, step, config.steps))
    model_file, model = _model(folder, notes)
    return RunReport(
        path=path,
        name=path.resolve().name,
        config=config,
        sources=sources(layers),
        version=version,
        step=step,
        curves=curves,
        previews=_previews(folder, notes),
        videos=_videos(folder, notes),
        model_file=model_file,
        model=model,
        judged=read_json(folder.path / "evaluation.json"),
        stages=_stages(folder),
        notes=notes,
    )


def thin(items: Iterable[Any], most: int) -> list[Any]:
    """Select at most `most` items, evenly spaced, including the first and the last."""
    items = list(items)
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _stopped(folder: RunFolder, step: int, steps: int) -> Note:
    age = log_age(folder.metrics)
    text = f"Stopped at step {step} of {steps}. To resume:"
    if age < _ALIVE_SECONDS:
        text = (
            f"Step {step} of {steps}; the log was written {max(age, 0):.0f} s before this page, so "
            "the run may still be training. If it has stopped, resume it:"
        )
    return Note("run", text, command("resume", folder.path))


def _curves(folder: RunFolder, notes: list[Note]) -> dict[str, Curve]:
    try:
        lines = folder.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    points: dict[str, dict[int, float]] = {}
    broken = 0
    for line in lines:
        try:
            record = json.loads(line)
            step = int(record["step"])
            found = scalars(record)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            broken += 1
            continue
        for name, value in found.items():
            if math.isfinite(value):
                points.setdefault(name, {})[step] = value
    curves = {
        name: Curve(tuple(sorted(values)), tuple(values[step] for step in sorted(values)))
        for name, values in points.items()
    }
    if broken:
        text = f"{broken} of {len(lines)} lines of metrics.jsonl cannot be read and are skipped."
        notes.append(Note("metrics", text))
    elif not curves:
        notes.append(Note("metrics", "No step is logged yet.", command("resume", folder.path)))
    return curves


def _newest_checkpoint(folder: RunFolder) -> tuple[str | None, int | None]:
    """The version that wrote the newest checkpoint, and its step."""
    for path in sorted(folder.checkpoints.glob("step_*.json"), reverse=True):
        details = read_json(path)
        with suppress(ValueError, KeyError, TypeError):
            return str(details["dreamfusion"]), int(details["step"])
    return None, None


def _stages(folder: RunFolder) -> dict[str, float]:
    with suppress(ValueError, TypeError):
        return {stage: float(seconds) for stage, seconds in read_json(folder.durations).items()}
    return {}


def _previews(folder: RunFolder, notes: list[Note]) -> list[Preview]:
    found, broken = [], []
    for path in thin(folder.preview_files(), MOST_PREVIEWS):
        try:
            with Image.open(path) as image:
                image.verify()
                width, height = image.size
            found.append(Preview(step_of(path), path.read_bytes(), width, height))
        except (OSError, ValueError, SyntaxError):
            broken.append(path.name)
    if broken:
        notes.append(Note("previews", f"Cannot be read: {', '.join(broken)}"))
    elif not found:
        text = "No preview yet: the first one is written after output.preview_every steps."
        notes.append(Note("previews", text))
    return found


def _videos(folder: RunFolder, notes: list[Note]) -> list[Video]:
    colored = [path for path in (folder.video, folder.path / "render-color.mp4") if path.is_file()]
    newest = sorted(colored, key=lambda path: path.stat().st_mtime)[-1:]
    titles = [(path, "Turntable") for path in newest]
    titles += [
        (path, mode.capitalize())
        for mode in ("normals", "depth", "textureless")
        if (path := folder.path / f"render-{mode}.mp4").is_file()
    ]
    found = []
    for path, title in titles:
        size = path.stat().st_size
        if size > MOST_BYTES:
            text = f"{path.name} has {size / 1e6:.0f} MB, too large for a page; open it in the run."
            notes.append(Note("video", text))
            continue
        data = path.read_bytes()
        if data[4:8] != b"ftyp":
            text = f"{path.name} is not a video. To render it:"
            notes.append(Note("video", text, command("render", folder.path)))
            continue
        found.append(Video(title, data))
    if not titles:
        notes.append(_missing("video", "render", folder))
    return found


def _model(folder: RunFolder, notes: list[Note]) -> tuple[str | None, Model | None]:
    files = [folder.mesh / f"model.{kind}" for kind in ("glb", "obj", "ply", "stl")]
    file = next((path for path in files if path.is_file()), None)
    if file is None:
        notes.append(_missing("mesh", "export", folder))
        return None, None
    name = file.relative_to(folder.path).as_posix()
    try:
        return name, read_model(file)
    except ModelError as error:
        text = f"{name} cannot be read ({one_line(error)}). To write it again:"
        notes.append(Note("mesh", text, command("export", folder.path)))
        return name, None


def _missing(part: Part, verb: str, folder: RunFolder) -> Note:
    if _newest_checkpoint(folder)[1] is None:
        text, verb = f"No {part} and no checkpoint yet. To train the run:", "resume"
    else:
        text = f"No {part} yet. To make one from the newest checkpoint:"
    return Note(part, text, command(verb, folder.path))


def read_small(path: Path) -> bytes | None:
    """A file to embed in a page; None if it is missing or large, since a page may contain many."""
    with suppress(OSError):
        if path.stat().st_size <= MOST_SMALL_BYTES:
            return path.read_bytes()
    return None
