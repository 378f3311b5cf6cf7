"""Jobs and their folders, such as shelf/jobs/a-corgi-s0-1f3a5b7c9d0e, whose names end in the hash
of the job. The state of a job is derived from its folder alone.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from dreamfusion.batch.prompts import BatchError
from dreamfusion.runs.folder import Inside, RunFolder, slug
from dreamfusion.runs.metrics import read_metrics
from dreamfusion.utils.files import write_text

FORMAT = 1
BEAT_SECONDS = 1.0  # between heartbeats
FRESH_SECONDS = 15.0  # an attempt with a more recent heartbeat counts as running


class State(str, Enum):
    """The state of a job; derived from its folder, never stored."""

    done = "done"
    failed = "failed"
    running = "running"
    stopped = "stopped"
    resumable = "resumable"
    new = "new"


@dataclass(frozen=True)
class Job:
    """One object to make.

    config: all settings, resolved. threads: of the process; the last bits of results depend on it.
    preset: name of a preset; None for the default of the prior. file: text of a settings file, used
    instead of a preset. settings: nested, override the preset or file.
    """

    prompt: str
    seed: int
    threads: int
    config: Mapping[str, Any]
    preset: str | None = None
    file: str | None = None
    settings: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """The hash of prompt, seed, resolved settings and threads."""
        content = {"prompt": self.prompt, "seed": self.seed, "threads": self.threads}
        text = json.dumps(content | {"config": self.config}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The name of the job's folder."""
        return f"{slug(self.prompt)}-s{self.seed}-{self.id}"

    @property
    def steps(self) -> int:
        """Number of steps."""
        return int(self.config["steps"])


class OfAttempt:
    """A function of the number of an attempt: the path of a file inside the folder of its job."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __get__(self, folder: Any, _: type) -> Callable[[int], Path]:
        return lambda number: Path(folder.path / self._pattern.format(number))


@dataclass(frozen=True)
class JobFolder:
    """Paths of a job's files, and their content. Its run is in run/, or in run-of-attempt-N if an
    earlier attempt was frozen."""

    path: Path

    job_file = Inside("job.json")  # the description of the job
    settings_file = Inside("settings.yaml")  # a copy of the job's settings file
    done_file = Inside("done.json")  # exists once the job is done
    failed_file = Inside("failed.json")  # exists once the job has failed and is not retried
    stop_file = Inside("stop")  # exists while the job is stopped until somebody resumes it

    attempt_file = OfAttempt("attempts/{:04d}.json")  # its process and machine, and name of its run
    beat_file = OfAttempt("attempts/{:04d}.beat")  # its heartbeat
    end_file = OfAttempt("attempts/{:04d}.end.json")  # its exit status, duration and memory
    log_file = OfAttempt("logs/{:04d}.txt")  # its standard error
    result_file = OfAttempt("logs/{:04d}.json")  # its standard output: one JSON object

    def attempts(self) -> list[int]:
        """The numbers of all attempts, oldest first."""
        files = self.path.glob("attempts/[0-9]*.json")
        return sorted(int(file.stem) for file in files if file.stem.isdigit())

    def newest_attempt(self) -> int:
        """The number of the newest attempt; 0 if there is none."""
        return max(self.attempts(), default=0)

    def last_beat(self, number: int) -> float:
        """The time of the last heartbeat of an attempt, in seconds since 1970; 0 without any."""
        try:
            return self.beat_file(number).stat().st_mtime
        except OSError:
            return 0.0

    def read(self) -> Job:
        """Read the job. Raises BatchError if it cannot be read."""
        try:
            content = json.loads(self.job_file.read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise ValueError("it is from another version of dreamfusion")
            return Job(**content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BatchError(f"{self.job_file} cannot be read: {error}") from None

    def write(self, job: Job) -> None:
        """Write the job, unless it is already written."""
        if self.job_file.is_file():
            return
        if job.file is not None:
            write_text(self.settings_file, job.file)
        write_json(self.job_file, {"format": FORMAT, **asdict(job)})

    @property
    def run(self) -> RunFolder:
        """The run of the newest attempt; it may not exist yet."""
        names = (read_json(self.attempt_file(n)).get("run") for n in reversed(self.attempts()))
        # A process may be killed between the creation of its file and the writing of it.
        return RunFolder(self.path / next(filter(None, names), "run"))

    @property
    def result(self) -> RunFolder:
        """The finished run of the job."""
        return RunFolder(self.path / str(read_json(self.done_file).get("run", "run")))

    def state(self) -> State:
        """The state, derived from the files."""
        if self.done_file.is_file():
            return State.done
        if self.failed_file.is_file():
            return State.failed
        number = self.newest_attempt()
        ended = self.end_file(number).is_file()
        if not ended and time.time() - self.last_beat(number) < FRESH_SECONDS:
            return State.running
        if self.stop_file.is_file():
            return State.stopped
        return State.resumable if any(self.run.checkpoints.glob("step_*.json")) else State.new

    def counted_failures(self) -> int:
        """Number of attempts that failed, other than by preemption, since the last reset."""
        ends = [read_json(self.end_file(number)) for number in self.attempts()]
        return sum(bool(end.get("counts")) for end in ends)

    def reset_retries(self) -> None:
        """Reset the count of failures, so that a failed job is retried."""
        for number in self.attempts():
            end = read_json(self.end_file(number))
            if end.get("counts"):
                write_json(self.end_file(number), end | {"counts": False})
        self.failed_file.unlink(missing_ok=True)


@dataclass(frozen=True)
class BatchFolder:
    """The folder of a batch, which contains the folders of its jobs."""

    path: Path

    jobs_path = Inside("jobs")  # the parent folder of the jobs

    def folder(self, job: Job) -> JobFolder:
        """The folder of a job."""
        return JobFolder(self.jobs_path / job.name)

    def jobs(self) -> dict[str, JobFolder]:
        """The folders of all jobs, by name."""
        found = sorted(self.jobs_path.glob("*/job.json"))
        return {file.parent.name: JobFolder(file.parent) for file in found}


@dataclass(frozen=True)
class Progress:
    """The progress of a job. left_seconds: predicted from its latest steps; None without any."""

    name: str
    prompt: str
    seed: int
    state: State
    step: int
    steps: int
    run: Path
    preview: Path | None
    attempt: int = 0
    left_seconds: float | None = None
    error: str | None = None


def progress_of(folder: JobFolder) -> Progress:
    """The progress of the job in a folder. Raises BatchError if it cannot be read."""
    job, state = folder.read(), folder.state()
    run = folder.result if state is State.done else folder.run
    steps = read_metrics(run.metrics, most_bytes=20_000)
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


def find_batch(path: Path) -> BatchFolder:
    """The batch at `path`. Raises BatchError if there is none."""
    batch_folder = BatchFolder(path)
    if not path.is_dir():
        raise BatchError(f"no such folder: {path}")
    if not batch_folder.jobs_path.is_dir():
        raise BatchError(f"{path} contains no batch: it has no jobs")
    return batch_folder


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def create_json(path: Path, content: Mapping[str, Any]) -> bool:
    """Create a JSON file, unless it exists. Returns whether this process created it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
    except FileExistsError:
        return False
    return True


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; an empty one if it cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
