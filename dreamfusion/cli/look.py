"""The commands `studio`, `view` and `report`: pages in the browser, live or as a file."""

from __future__ import annotations

import threading
import webbrowser
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dreamfusion.batch.jobs import BatchFolder, State, find_batch
from dreamfusion.cli import options
from dreamfusion.cli.console import Console
from dreamfusion.cli.stopping import Stopped, stoppable
from dreamfusion.runs.folder import find_run

if TYPE_CHECKING:
    from dreamfusion.studio.library import Library


PortOption = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="0: any free port. [default: first free from 8080]"),
]
HostOption = Annotated[
    str,
    typer.Option(
        help="Address to listen at. Others than this machine's own admit other machines, with a "
        "token in the address of the page."
    ),
]
OpenOption = Annotated[
    bool, typer.Option("--open/--no-open", help="Open the page in a browser here.")
]


def studio(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Folder of all objects, a batch.")
    ] = Path("studio"),
    steps: options.StepsOption = None,
    config: options.ConfigOption = None,
    prior: options.PriorOption = None,
    device: options.DeviceOption = None,
    port: PortOption = None,
    host: HostOption = "127.0.0.1",
    open_: OpenOption = False,
) -> None:
    """Make objects on a page in the browser. Ctrl-C quits; started again, it goes on."""
    from dreamfusion.batch.plan import Options
    from dreamfusion.studio.library import Studio
    from dreamfusion.studio.queue import Queue

    root = BatchFolder(folder.expanduser().resolve())
    queue = Queue(root)
    for_new = Options(steps=steps, config=config, prior=prior, device=device)
    library = Studio(root, queue, for_new)
    _serve(library, host, port, open_, queue.running())


def view(
    run_dir: options.RunArgument,
    port: PortOption = None,
    host: HostOption = "127.0.0.1",
    open_: OpenOption = False,
) -> None:
    """Show a run in the browser, during training or after it. Ctrl-C quits."""
    from dreamfusion.studio.library import SingleRun

    _serve(SingleRun(find_run(run_dir)), host, port, open_, nullcontext())


def _serve(
    library: Library, host: str, port: int | None, open_: bool, around: AbstractContextManager[None]
) -> None:
    """Serve a page until Ctrl-C. around: entered meanwhile."""
    from dreamfusion.studio.server import serving

    console = Console()
    with (
        suppress(Stopped, KeyboardInterrupt),
        stoppable(),
        around,
        serving(library, host=host, port=port) as server,
    ):
        console.say(f"page      {server.url} (Ctrl-C ends it)")
        if open_:
            webbrowser.open(server.url)
        threading.Event().wait()
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
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
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
