"""The command `batch`: many prompts, seeds and settings, and the display of its progress."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from dreamfusion.batch import plan
from dreamfusion.batch.driver import Listener, drive, driver_lock, prepare
from dreamfusion.batch.engines import Engine, ResourceRequest
from dreamfusion.batch.engines.local import LocalEngine
from dreamfusion.batch.jobs import (
    BatchFolder,
    Job,
    JobFolder,
    State,
    find_batch,
    progress_of,
    read_json,
)
from dreamfusion.batch.links import link_models
from dreamfusion.batch.prompts import BatchError, combinations, read_entries
from dreamfusion.cli import options
from dreamfusion.cli.console import Console, Show
from dreamfusion.cli.stopping import stoppable
from dreamfusion.utils.duration import duration
from dreamfusion.utils.errors import UserError, command

_SECONDS = 1.0  # between updates of the bar


def batch(
    prompts: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|-]",
            help="Prompts: one per line, or .yaml, .json, .jsonl, .csv, .tsv; -: lines of standard "
            "input. If omitted, continue all jobs in the folder.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all jobs.")] = Path("shelf"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per prompt without a seed.")] = 1,
    seed: options.FirstSeedOption = 0,
    steps: options.StepsOption = None,
    config: options.ConfigOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=A,B,…",
            help="Settings; all combinations run.",
            autocompletion=options.complete_settings,
        ),
    ] = None,
    prior: options.PriorOption = None,
    device: options.DeviceOption = None,
    on: options.PlaceOption = "here",
    jobs: options.JobsOption = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads per job. Changing it changes results slightly.")
    ] = 1,
    keep: options.KeepOption = "all",
    judge: options.ChooserOption = None,
    status: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Show the progress of a batch and exit.")
    ] = None,
    retry_failed: options.RetryOption = False,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Make many objects from prompts, seeds and settings. Finished jobs are skipped."""
    console = Console(quiet=quiet, json=json_)
    if status is not None:
        _print_status(console, list(find_batch(status).jobs().values()))
        return
    if prompts is None:
        if (seeds, seed, steps, config, set_, prior, device, threads) != (1, 0, *5 * [None], 1):
            raise BatchError("job options need a list of prompts; existing jobs keep their options")
        requested = [folder.read() for folder in find_batch(out).jobs().values()]
        if not requested:
            raise BatchError(f"{out} contains no jobs")
    else:
        grid = combinations(set_ or [])
        defaults = plan.Options(seeds, seed, steps, config, prior, device, threads, grid)
        requested = plan.plan_jobs(read_entries(prompts), defaults)
    chooser = chooser_of(keep, judge, requested)
    report = make(console, out, requested, on=on, at_once=jobs, retry_failed=retry_failed)
    finish(console, out, report, chooser)


def make(
    console: Console,
    out: Path,
    requested: Sequence[Job],
    *,
    on: options.Place = "here",
    at_once: int | None = None,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Run jobs in a folder and show their progress. Returns the report for --json."""
    root, need = BatchFolder(out.resolve()), plan.request_of(requested)
    with driver_lock(root), closing(_engine(on, need, at_once, root.path)) as engine:
        folders = prepare(root, requested)
        for folder in folders:  # the user asks for these jobs now
            folder.stop_file.unlink(missing_ok=True)
        if retry_failed:
            for folder in folders:
                folder.reset_retries()
        console.say(f"jobs      {len(folders)}, {engine.slots} at once on {engine.name}")
        with (
            stoppable() as stopping,
            stopping.training(),
            console.bar("jobs", len(folders)) as show,
        ):
            log = BatchLog(console, folders, show)
            finished = drive(folders, engine, listener=log, stop=stopping)
    jobs = [vars(progress_of(folder)) for folder in folders]
    status = 1 if any(job["state"] == "failed" for job in jobs) else 0
    if not finished:
        status = stopping.status
    return {"shelf": out, "finished": finished, "status": status, "jobs": jobs}


def finish(console: Console, out: Path, report: dict[str, Any], chooser: str | None) -> None:
    """Choose the best seeds if requested, and print the report. Raises typer.Exit with the report's
    status unless all jobs are done."""
    failed = [job for job in report["jobs"] if job["state"] == "failed"]
    if not report["finished"]:
        console.say(f"stopped; to continue: {command('batch', '--out', out)}")
    elif failed:
        again = command("batch", "--out", out, "--retry-failed")
        console.say(f"{len(failed)} failed; to retry them: {again}")
    if report["finished"] and chooser is not None:
        from dreamfusion.cli.choosing import choose_best

        report["best"] = choose_best(console, out, report["jobs"], chooser)
    for link in link_models(BatchFolder(out)):
        console.say(f"model     {link}")
    console.say(f"to judge  {command('evaluate', out)}")
    console.say(f"to report {command('report', out)}")
    console.result(report)
    if report["status"]:
        raise typer.Exit(report["status"])


def chooser_of(keep: options.Keep, judge: str | None, requested: Sequence[Job]) -> str | None:
    """The judge that picks the best seeds, or None. Raises JudgeError if the shipped judge does not
    know the words of a prompt, so that no job is started in vain."""
    if keep == "all":
        if judge is not None:
            raise UserError("--judge picks the best seed: add --keep best")
        return None
    if judge is not None:
        return judge
    from dreamfusion.evaluation.evaluate import CHOOSER
    from dreamfusion.evaluation.judges import choose_judge

    choose_judge([job.prompt for job in requested])
    return CHOOSER


def _engine(
    on: options.Place, need: ResourceRequest, at_once: int | None, batch_folder: Path
) -> Engine:
    if on == "ray":
        if at_once is not None:
            raise UserError("--jobs applies to this machine only, not to a cluster: omit it")
        from dreamfusion.batch.engines.ray_engine import RayEngine

        return RayEngine(need, batch_folder)
    return LocalEngine(need, at_once=at_once)


def _print_status(console: Console, folders: Sequence[JobFolder]) -> None:
    jobs = [progress_of(folder) for folder in folders]
    states = [job.state for job in jobs]
    counts = {state.value: states.count(state) for state in State}
    for job in jobs:
        step = f"step {job.step}/{job.steps}"
        left = "" if job.left_seconds is None else f", {duration(job.left_seconds)} left"
        details = {
            State.done: job.run,
            State.failed: job.error,
            State.running: f"{step}{left}  {job.preview or ''}",
            State.stopped: f"stopped at {step}, until it is resumed in the studio",
            State.resumable: f"stopped at {step}",
        }.get(job.state, "")
        said = f"{job.state.value:<10}{job.prompt}, seed {job.seed}  {details}"
        console.say(said.rstrip())
    console.say(", ".join(f"{count} {state}" for state, count in counts.items()))
    console.result({"counts": counts, "jobs": [vars(job) for job in jobs]})


class BatchLog(Listener):
    """Prints one line per event of a batch, and shows the running jobs on a terminal."""

    def __init__(self, console: Console, folders: Sequence[JobFolder], show: Show) -> None:
        self._say, self._show, self._total = console.say, show, len(folders)
        self._ended = sum(f.state() in (State.done, State.failed) for f in folders)
        self._shown = 0.0

    def started(self, folder: JobFolder, number: int) -> None:
        again = "" if number == 1 else f", attempt {number}"
        self._say(f"start     {folder.path.name}{again}")

    def finished(self, folder: JobFolder) -> None:
        self._ended += 1
        done, count = read_json(folder.done_file), f"({self._ended}/{self._total})"
        if done:
            self._say(f"done      {folder.path.name}  {duration(done['seconds'])}  {count}")
        else:
            error = read_json(folder.failed_file).get("error")
            self._say(f"failed    {folder.path.name}: {error}  {count}")

    def retried(self, folder: JobFolder, why: str) -> None:
        self._say(f"again     {folder.path.name}: {why}")

    def polled(self, running: Sequence[JobFolder]) -> None:
        if time.monotonic() > self._shown + _SECONDS:
            self._shown = time.monotonic()
            jobs = [progress_of(folder) for folder in running]
            self._show(self._ended, ", ".join(f"{j.prompt} {j.step}/{j.steps}" for j in jobs))
