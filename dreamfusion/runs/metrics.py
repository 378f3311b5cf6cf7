"""The logs of metrics: one line of JSON per step, and event files for TensorBoard.

TensorBoard is optional (`pip install 'dreamfusion[tensorboard]'`). Neither TensorBoard nor torch is
imported before a log of events is opened.
"""

import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamfusion.utils.errors import UserError
from dreamfusion.utils.files import write_text

_FLUSH_SECONDS = 10


@contextmanager
def metrics_log(path: Path, *, after: int) -> Iterator[Callable[[Mapping[str, Any]], object]]:
    """Open a run's metrics.jsonl during the block; yields a function that appends a line.

    after: the step of the checkpoint. Lines of later steps, from a run that was killed after its
    last checkpoint, are removed: those steps will be repeated.
    """
    kept = [line for line in _lines(path) if _step_of(line) <= after]
    write_text(path, "".join(kept))
    with path.open("a", encoding="utf-8", buffering=1) as log:
        yield lambda metrics: log.write(json.dumps(metrics) + "\n")


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numeric metrics of a step; a list of numbers is replaced by its mean.

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


def _step_of(line: str) -> float:
    """The step of a line; infinity for a truncated line."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


def log_age(path: Path) -> float:
    """Seconds since the file was written; infinity if there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return math.inf


def read_metrics(path: Path, most_bytes: int | None = None) -> list[dict[str, Any]]:
    """The metrics of all complete lines, oldest first; an empty list if there is no file.
    most_bytes: read only the end of the file."""
    return [json.loads(line) for line in _lines(path, most_bytes) if _step_of(line) < math.inf]


def _lines(path: Path, most_bytes: int | None = None) -> list[str]:
    if not path.exists():
        return []
    with path.open("rb") as file:
        if most_bytes is not None:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
        return file.read().decode(errors="replace").splitlines(keepends=True)


def require_tensorboard() -> None:
    """Raise UserError if TensorBoard is not installed, without importing it."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError(
            "logging.tensorboard needs TensorBoard: pip install 'dreamfusion[tensorboard]'"
        )


def event_log(folder: Path, *, after: int) -> Any:
    """A writer of event files in a folder, to be closed after use.

    after: the step of the checkpoint. TensorBoard ignores entries of later steps in older files,
    from a run that was killed after its last checkpoint: those steps will be repeated.
    """
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=after + 1, flush_secs=_FLUSH_SECONDS)
