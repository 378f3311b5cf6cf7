"""Shows the progress of a batch: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from dreamfusion.batch.driver import Listener
from dreamfusion.batch.jobs import JobFolder, State, read_json
from dreamfusion.batch.progress import Progress, progress_of
from dreamfusion.cli.console import Console
from dreamfusion.utils.duration import duration

_SECONDS = 1.0  # between updates of the live display


def line_of(job: Progress) -> str:
    """The progress of a job, on one line."""
    left = "" if job.left_seconds is None else f", {duration(job.left_seconds)} left"
    details = {
        State.done: str(job.run),
        State.failed: job.error or "",
        State.running: f"step {job.step}/{job.steps}{left}  {job.preview or ''}".rstrip(),
        State.resumable: f"stopped at step {job.step}/{job.steps}",
        State.new: "",
    }[job.state]
    return f"{job.prompt}, seed {job.seed}  {details}".rstrip()


class BatchScreen(Listener):
    """A context manager that shows a progress bar, a line per running job, and failures.

    Without a terminal, or with --json, it prints one line per event.
    """

    def __init__(self, console: Console, folders: Sequence[JobFolder]) -> None:
        self._console, self._folders = console, folders
        self._ended = sum(f.state() in (State.done, State.failed) for f in folders)
        self._live: Any = None
        self._drawn = 0.0

    def __enter__(self) -> BatchScreen:
        if sys.stdout.isatty() and not (self._console.quiet or self._console.json):
            from rich.live import Live

            self._live = Live(auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._draw([])
            self._live.stop()

    def started(self, folder: JobFolder, number: int) -> None:
        again = "" if number == 1 else f", attempt {number}"
        self._say(f"start     {folder.path.name}{again}")

    def finished(self, folder: JobFolder) -> None:
        self._ended += 1
        error = read_json(folder.failed_file).get("error")
        count = f"{self._ended}/{len(self._folders)}"
        if folder.state() is State.done:
            seconds = read_json(folder.done_file).get("seconds", 0.0)
            self._say(f"done      {folder.path.name}  {duration(seconds)}  ({count})")
        else:
            self._say(f"failed    {folder.path.name}: {error}  ({count})", above=True)

    def retried(self, folder: JobFolder, why: str) -> None:
        self._say(f"again     {folder.path.name}: {why}", above=True)

    def polled(self, running: Sequence[JobFolder]) -> None:
        """Update the live display at intervals."""
        if self._live is not None and time.monotonic() > self._drawn + _SECONDS:
            self._drawn = time.monotonic()
            self._draw(running)

    def _draw(self, running: Sequence[JobFolder]) -> None:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        head = Table.grid(padding=(0, 1))
        head.add_row(
            ProgressBar(total=len(self._folders), completed=self._ended, width=40),
            Text(f"{self._ended} of {len(self._folders)} jobs"),
        )
        lines = (Text(line_of(progress_of(folder))) for folder in running)
        self._live.update(Group(head, *lines), refresh=True)

    def _say(self, text: str, *, above: bool = False) -> None:
        """Print a line. above: with a live display, print it above instead of omitting it."""
        if self._live is None:
            self._console.say(text)
        elif above:
            self._live.console.print(text, markup=False, highlight=False)
