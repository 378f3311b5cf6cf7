"""Files that are either whole under their name or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dreamfusion.utils.file_system import set_mode, sync, sync_folder


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name beside `path`, of the same suffix, to write the file under: it becomes `path` when
    the block ends, and nothing is left of it when the block fails. The folder is made if need be.

    When the block has ended the file, and that it has its name, are on the disk, so that neither a
    kill nor a loss of power undoes it; and the file is as open to others as the umask says. File
    systems that cannot do these two things are written to without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        # Libraries may have made it as they like: safetensors for its owner alone.
        mask = os.umask(0o077)  # can be read only by setting it
        os.umask(mask)
        set_mode(temporary, 0o666 & ~mask)
        with temporary.open("r+b") as file:
            sync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        # A write that fails says no name.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left of unfinished files in `folder`.

    Only where nobody else can be writing there.
    """
    for path in folder.glob(".*"):
        if is_leftover(path):
            path.unlink()


def is_leftover(path: Path) -> bool:
    """Whether a file has the name of one that was not finished."""
    return re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name) is not None and path.is_file()
