"""The runs to evaluate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamfusion.batch.jobs import State, find_batch, read_json
from dreamfusion.config.nested import flat
from dreamfusion.runs.folder import RunFolder, find_run
from dreamfusion.utils.errors import UserError


@dataclass(frozen=True)
class Subject:
    """A run to evaluate. settings: those of its batch, by dotted names. seconds, gib: its duration
    and peak memory, if recorded. problem: why it cannot be evaluated."""

    run: RunFolder
    prompt: str
    seed: int
    seconds: float | None = None
    gib: float | None = None
    problem: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def subjects_in(path: Path) -> list[Subject]:
    """The run in a folder, or all runs of a batch. Raises UserError if there is neither."""
    if (path / "config.yaml").is_file() or not (path / "jobs").is_dir():
        run = find_run(path)
        config = run.read_config()
        return [Subject(run, config.prompt, config.seed)]
    found = []
    for folder in find_batch(path).jobs().values():
        job, state, done = folder.read(), folder.state(), read_json(folder.done_file)
        is_done = state is State.done
        found.append(
            Subject(
                folder.result if is_done else RunFolder(folder.path / "run"),
                job.prompt,
                job.seed,
                done.get("seconds"),
                done.get("peak_gib"),
                None if is_done else f"the job is not done: {state.value}",
                dict(flat(job.settings or {})),
            )
        )
    if not found:
        raise UserError(f"{path} contains no jobs")
    return found


def variants_of(subjects: Sequence[Subject]) -> list[str]:
    """For each run, the values of the settings that differ between runs, as text."""
    names = dict.fromkeys(name for subject in subjects for name in subject.settings)
    mixed = [
        name
        for name in names
        if len({repr(subject.settings.get(name)) for subject in subjects}) > 1
    ]
    return [
        ", ".join(f"{name}={subject.settings.get(name, 'default')}" for name in mixed)
        for subject in subjects
    ]
