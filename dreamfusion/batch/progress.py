"""Progress of a batch, read from its folder. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreamfusion.batch.jobs import JobFolder, State, read_json
from dreamfusion.runs.metrics import newest_metrics


@dataclass(frozen=True)
class Progress:
    """The progress of a job. left_seconds: predicted from its latest steps; None without any."""

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
        """The progress as a mapping, for --json."""
        return {**vars(self), "state": self.state.value}


def progress_of(folder: JobFolder) -> Progress:
    """The progress of the job in a folder. Raises BatchError if it cannot be read."""
    job, state = folder.read(), folder.state()
    run = folder.result if state is State.done else folder.run
    steps = newest_metrics(run.metrics)
    step = int(steps[-1]["step"]) if steps else 0
    seconds = [float(metrics["seconds"]) for metrics in steps[-20:] if "seconds" in metrics]
    pace = sum(seconds) / len(seconds) if seconds else None
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
