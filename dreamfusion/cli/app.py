"""The main program of the command line. Heavy libraries are imported only where a command needs
them, so that help and usage errors appear at once."""

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from dreamfusion.cli import batch, evaluate, export, look, machine, prior, train
from dreamfusion.cli.options import USER_ERROR
from dreamfusion.cli.stopping import Stopped
from dreamfusion.utils.errors import RunWarning, UserError, command, one_line, out_of_memory
from dreamfusion.utils.launch import launch
from dreamfusion.utils.version import __version__

app = typer.Typer(
    epilog="Exit status: 0 on success, 2 for an error that you can fix, 130, 143 or 138 after "
    "Ctrl-C, SIGTERM or SIGUSR1.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status. User errors print one line, status 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # "?" for characters that the encoding lacks
    # Must be set before torch is imported: idle threads sleep instead of spinning. On a machine
    # that is busy with other work, spinning makes a step ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        if (group := launch()) is not None and group.rank > 0:
            # Open until the process ends.
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        with _warnings_as_lines():
            status = app(
                args=["--help"] if list(arguments) in ([], ["help"]) else arguments,
                prog_name="dreamfusion",
                standalone_mode=False,
            )
        return int(status or 0)
    except UserError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(
            f"{error.strerror or error}: {error.filename}" if error.filename else one_line(error)
        )
    except (Stopped, KeyboardInterrupt, typer.Abort) as stop:
        # Typer converts an EOFError (Ctrl-D at a prompt) to Abort. No command has prompts, so a
        # library has raised it.
        if isinstance(stop.__cause__, EOFError):
            raise stop.__cause__ from None
        print("stopped", file=sys.stderr)
        return stop.status if isinstance(stop, Stopped) else 130
    except Exception as error:
        if (message := out_of_memory(error)) is not None:
            return _fail(message)
        # Typer exports no base class of usage errors, but all of them have this method.
        if not hasattr(error, "format_message"):
            raise
        return _fail(_usage_error(error, arguments))


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Print each RunWarning as one line on standard error. Python shows others, for developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        default = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, RunWarning):
                print(f"warning: {one_line(str(message), 500)}", file=sys.stderr, flush=True)
            else:
                default(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _usage_error(error: Any, arguments: Sequence[str]) -> str:
    """The message of a usage error, with the command that helps."""
    message, context = error.format_message(), error.ctx
    message += "" if message.endswith((".", "?")) else "."
    if context is None or context.parent is not None:
        return f"{message} See: {context.command_path if context else 'dreamfusion'} --help"
    word = next((word for word in arguments if not word.startswith("-")), "")
    if "No such command" in message and ("Did you mean" not in message or " " in word):
        prompt = " ".join(arguments[arguments.index(word) :])
        return f"{message.split(' Did you')[0]} To make an object: {command('train', prompt)}"
    return f"{message} See: dreamfusion --help"


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR


def _print_version(value: bool) -> None:
    if value:
        print(f"dreamfusion {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Text to 3D by Score Distillation Sampling (DreamFusion)."""


for _command, _example in (
    (train.train, 'train "a red mug" --steps 500 --seed 1'),
    (train.paint, 'paint car.glb "a red car" --up +z --front=-y'),
    (train.resume, "resume runs/a-corgi --steps 1000"),
    (batch.batch, "batch prompts.txt --seeds 3 --out shelf"),
    (evaluate.evaluate, "evaluate shelf --judge auto"),
    (evaluate.compare, "compare sds csd --out comparison"),
    (export.export, "export runs/a-corgi --format obj --faces 5000"),
    (export.render, "render runs/a-corgi --mode grid --format webp"),
    (look.studio, "studio --open"),
    (look.view, "view runs/a-corgi --open"),
    (look.report, "report runs/a-corgi runs/a-red-mug --out both.html"),
    (prior.sample, 'sample "a red mug" --count 4'),
):
    app.command(epilog=f"Example: dreamfusion {_example}")(_command)
app.command()(prior.vocabulary)
app.command()(machine.configs)
app.command()(machine.estimators)
app.command()(machine.doctor)
