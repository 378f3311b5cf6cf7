"""Formats commands in messages, quoted for copying into a shell."""

import shlex
from pathlib import Path


def command(*arguments: object) -> str:
    """`dreamfusion` with these arguments, quoted for a POSIX shell.

    >>> command("resume", Path("runs/a b"), "--steps", 20)
    "dreamfusion resume 'runs/a b' --steps 20"
    """
    # A path like "-x" would be parsed as an option.
    paths = {a for a in arguments if isinstance(a, Path) and str(a).startswith("-")}
    return shlex.join(["dreamfusion", *(f"./{a}" if a in paths else str(a) for a in arguments)])
