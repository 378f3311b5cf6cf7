"""How far a batch is, as its folder says. No torch."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.batch.jobs import JobFolder, State, read_json

_TAIL_BYTES = 20_000  # of a log of metrics: the last steps


@dataclass(frozen=True)
class Progress:
    """Where a job is. left_seconds: of its steps, by the latest of them; None before the first."""

    name: str
    prompt: str
    seed: int
    state: State
    attempt: int
    step: int
    steps: int
    left_seconds: float | None
    run: Path
    preview: Path | None
    error: str | None

    def as_mapping(self) -> dict[str, Any]:
        """For scripts."""
        return {**vars(self), "state": self.state.value}


def progress_of(folder: JobFolder) -> Progress:
    """Where the job in a folder is. Raises BatchError where it cannot be read."""
    job, state = folder.read(), folder.state()
    run = folder.result if state is State.done else folder.run
    step, pace = _last_steps(run.metrics)
    previews = run.preview_files()
    return Progress(
        name=folder.path.name,
        prompt=job.prompt,
        seed=job.seed,
        state=state,
        attempt=folder.newest_attempt(),
        step=step,
        steps=job.steps,
        left_seconds=None if pace is None else pace * (job.steps - step),
        run=run.path,
        preview=previews[-1] if previews else None,
        error=read_json(folder.failed_file).get("error"),
    )


def totals(folders: Mapping[str, JobFolder]) -> dict[str, int]:
    """How many jobs are in each state."""
    found = Counter(folder.state() for folder in folders.values())
    return {state.value: found[state] for state in State}


def _last_steps(metrics: Path) -> tuple[int, float | None]:
    """The last step that is logged, and the mean seconds of the latest ones."""
    try:
        with metrics.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except OSError:
        return 0, None
    step, seconds = 0, []
    for line in lines:
        try:
            record = json.loads(line)
            step = int(record["step"])
            seconds.append(float(record["seconds"]))
        except (ValueError, KeyError, TypeError):
            continue  # the first may begin within a line, the last may be half written
    recent = seconds[-20:]
    return step, sum(recent) / len(recent) if recent else None
