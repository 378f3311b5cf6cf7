"""`batch`: many prompts, seeds and settings by one command."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamfusion.cli.console import Console
from dreamfusion.cli.options import DeviceOption, JsonOption, PriorOption, QuietOption, StepsOption
from dreamfusion.cli.stopping import stoppable

if TYPE_CHECKING:
    from dreamfusion.batch.jobs import JobFolder

STOPPED = 130
SOME_FAILED = 1


def batch(
    prompts: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE|-]",
            help="Prompts, one a line, or .yaml, .csv, .jsonl; -: standard input. Without it, all "
            "that the folder holds is gone on with.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of all jobs.")] = Path("shelf"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds for each prompt without one.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 0,
    steps: StepsOption = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="PRESET|FILE", help="For entries without a preset."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=A,B,…", help="Settings; every combination is made."),
    ] = None,
    prior: PriorOption = None,
    device: DeviceOption = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at once. [default: what cores, memory and GPUs allow]"),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each job; with others the bits differ.")
    ] = 1,
    status: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Say how far the batch there is, and end.")
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try jobs again that have failed.")
    ] = False,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Make many objects: all prompts, seeds and settings. What is done is not done again."""
    console = Console(quiet=quiet, json=json_)
    from dreamfusion.batch.jobs import Shelf, find_shelf

    if status is not None:
        _tell_status(console, list(find_shelf(status).jobs().values()))
        return
    from dreamfusion.batch.driver import drive, driving, prepare
    from dreamfusion.batch.engines.local import LocalEngine
    from dreamfusion.batch.jobs import State
    from dreamfusion.batch.plan import Options, need_of, plan_jobs
    from dreamfusion.batch.prompts import BatchError, combinations, read_entries
    from dreamfusion.cli.batch_screen import Screen

    if prompts is None:
        if (seeds, seed, steps, config, set_, prior, device, threads) != (1, 0, *5 * [None], 1):
            raise BatchError("options of jobs need a list of prompts; those of the folder are set")
        folders = list(find_shelf(out).jobs().values())
        if not folders:
            raise BatchError(f"{out} holds no jobs")
        wanted = [folder.read() for folder in folders]
    else:
        options = Options(
            seeds, seed, steps, config, prior, device, threads, combinations(set_ or [])
        )
        wanted = plan_jobs(read_entries(prompts), options)
    shelf = Shelf(out.resolve())
    need = need_of(wanted)
    with driving(shelf), closing(LocalEngine(need, at_once=jobs)) as engine:
        folders = prepare(shelf, wanted)
        if retry_failed:
            for folder in folders:
                folder.forgive()
        console.say(f"jobs      {len(folders)}, {engine.places} at once on {engine.name}")
        with stoppable() as stopping, Screen(console, folders) as screen:
            finished = drive(folders, engine, listener=screen, stop=stopping)
    failed = [folder for folder in folders if folder.state() is State.failed]
    report = {"shelf": out, "finished": finished, "jobs": _table(folders)}
    if not finished:
        console.say(f"stopped; to go on: dreamfusion batch --out {out}")
    elif failed:
        console.say(f"{len(failed)} failed; to try them again: dreamfusion batch --out {out} "
                    "--retry-failed")  # fmt: skip
    console.result(report)
    if not finished or failed:
        raise typer.Exit(SOME_FAILED if finished else STOPPED)


def _table(folders: Sequence[JobFolder]) -> list[dict[str, object]]:
    from dreamfusion.batch.progress import progress_of

    return [progress_of(folder).as_mapping() for folder in folders]


def _tell_status(console: Console, folders: Sequence[JobFolder]) -> None:
    from dreamfusion.batch.progress import progress_of, totals
    from dreamfusion.cli.batch_screen import line_of

    counts = totals({folder.path.name: folder for folder in folders})
    found = [progress_of(folder) for folder in folders]
    for one in found:
        console.say(f"{one.state.value:<10}{line_of(one)}")
    console.say(", ".join(f"{count} {state}" for state, count in counts.items()))
    console.result({"counts": counts, "jobs": [one.as_mapping() for one in found]})
