"""The commands `view` and `report`: show a run in the browser, or write an HTML page."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from dreamfusion.batch.jobs import State, find_batch
from dreamfusion.cli.console import Console
from dreamfusion.cli.options import JsonOption, QuietOption, RunArgument
from dreamfusion.cli.page import open_page
from dreamfusion.cli.stopping import Stopped, stoppable
from dreamfusion.runs.folder import find_run


def view(
    run_dir: RunArgument,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="0: any free port. [default: first free from 8080]"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 admits other machines.")
    ] = "127.0.0.1",
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser here.")
    ] = False,
) -> None:
    """Show a run in the browser, during training or after it. Ctrl-C quits."""
    console = Console()
    run = find_run(run_dir)
    from dreamfusion.runs.checkpoint import require_checkpoint
    from dreamfusion.viewer.serve import serve_run

    require_checkpoint(run)
    try:
        with stoppable(), open_page(console, run.path.name, "Ctrl-C ends it", host, port) as page:
            if open_:
                webbrowser.open(page.url)
            serve_run(page, run)
    except (Stopped, KeyboardInterrupt):
        console.say("closed")


def report(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="The folders of one or more runs, or of a batch."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Page to write. [default: DIR/report.html; of several: report.html; of a batch: "
            "DIR/gallery.html]",
        ),
    ] = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Write an HTML page on a run, several runs side by side, or a batch. It works offline."""
    from dreamfusion.report import write_report

    console = Console(quiet=quiet, json=json_)
    if len(run_dirs) == 1 and (run_dirs[0] / "jobs").is_dir():
        from dreamfusion.report.gallery import write_gallery

        folders = find_batch(run_dirs[0]).jobs().values()
        done = [folder for folder in folders if folder.state() is State.done]
        for folder in console.track(done, len(done), "reports"):
            write_report([folder.result.path])
        page = write_gallery(run_dirs[0], out)
    else:
        page = write_report(run_dirs, out)
    console.say(f"report    {page}")
    console.result({"files": [page]})
