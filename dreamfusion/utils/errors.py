"""Errors that a user can fix, and the commands that messages suggest.

The command line prints such an error as one line and exits with status 2.
"""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Base class of errors with a message for the user: one line with the problem and the remedy.

    Line breaks and control characters, as from a quoted prompt or file, are removed. brief: the
    problem without the remedy, for a message that lists several errors.
    """

    def __init__(self, message: str, *, brief: str | None = None) -> None:
        super().__init__(one_line(message, 1500))
        self.brief = str(self) if brief is None else one_line(brief, 1500)


class RunWarning(UserWarning):
    """A warning for the user. The command line prints it as one line."""


def one_line(error: BaseException | str, limit: int = 200) -> str:
    """A text, or the message of an exception, as one line of at most `limit` characters. Only
    printable characters are kept, so that none moves the cursor or changes the text direction."""
    text = "".join(c if c.isprintable() else " " for c in str(error))
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"


def command(*arguments: object) -> str:
    """`dreamfusion` with these arguments, quoted for a POSIX shell.

    >>> command("resume", Path("runs/a b"), "--steps", 20)
    "dreamfusion resume 'runs/a b' --steps 20"
    """
    # A path like "-x" would be parsed as an option.
    paths = {a for a in arguments if isinstance(a, Path) and str(a).startswith("-")}
    return shlex.join(["dreamfusion", *(f"./{a}" if a in paths else str(a) for a in arguments)])


def out_of_memory(error: BaseException) -> str | None:
    """One line with advice if the memory of a GPU or of this machine is full; None for any other
    error."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and isinstance(error, torch.OutOfMemoryError)
    # Torch has no separate class for the CPU's errors.
    if not (on_gpu or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)):
        return None
    return (
        f"{'the GPU' if on_gpu else 'this machine'} ran out of memory; lower camera.views, "
        "render.resolution, --resolution, --size or --count, or set prior.vae_checkpointing=true"
    )


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Convert out-of-memory errors to a UserError with a message of one line."""
    try:
        yield
    except Exception as error:
        if (message := out_of_memory(error)) is None:
            raise
        raise UserError(message) from error
