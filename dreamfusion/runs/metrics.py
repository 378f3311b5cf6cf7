"""The log of metrics: one line of JSON per step. Imports no torch."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dreamfusion.utils.atomic_write import atomic_write


@contextmanager
def metrics_log(path: Path, *, after: int) -> Iterator[Callable[[Mapping[str, Any]], object]]:
    """Open a run's metrics.jsonl during the block; yields a function that appends a line.

    after: the step of the checkpoint. Lines of later steps, from a run that was killed after its
    last checkpoint, are removed: those steps will be repeated.
    """
    kept = [line for line in _lines(path) if _step_of(line) <= after]
    with atomic_write(path) as file:
        file.write_text("".join(kept), encoding="utf-8")
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


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def _step_of(line: str) -> float:
    """The step of a line; infinity for a truncated line."""
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")


def newest_metrics(path: Path, most_bytes: int = 20_000) -> list[dict[str, Any]]:
    """The metrics of the last steps, oldest first, from the end of the file. most_bytes: limit of
    the text that is read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most_bytes))
            lines = file.read().decode(errors="replace").splitlines(keepends=True)
    except OSError:
        return []
    return [json.loads(line) for line in lines if _step_of(line) < float("inf")]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The metrics of all complete lines, oldest first; an empty list if there is no file."""
    return [json.loads(line) for line in _lines(path) if _step_of(line) < float("inf")]
