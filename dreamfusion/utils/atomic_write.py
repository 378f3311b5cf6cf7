"""Atomic writes: a file is either complete or does not exist."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dreamfusion.utils.file_system import unsupported


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, with the same suffix, for writing the file.
    It is renamed to `path` when the block ends, and removed if the block fails. Creates the folder.

    After the block, the file and its name are synced to disk, so that they survive a kill or a
    power failure, and the file gets the permissions of the umask. On file systems without sync or
    permissions, these steps are skipped. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        # Libraries set other permissions: files of safetensors are readable by their owner only.
        mask = os.umask(0o077)  # the umask can be read only by setting it
        os.umask(mask)
        with suppress(OSError, NotImplementedError):
            temporary.chmod(0o666 & ~mask)
        _sync(temporary, os.O_RDWR)
        temporary.replace(path)
        with suppress(OSError):  # Windows cannot open folders
            _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        # The error of a failed write contains no file name.
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write a file atomically. Raises OSError."""
    with atomic_write(Path(path)) as file:
        file.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write a file in UTF-8 atomically. Raises OSError."""
    write_bytes(path, content.encode())


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    except OSError as error:
        if not unsupported(error):
            raise
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes from `folder`. Must not be called while another
    process may write there."""
    for path in folder.glob(".*"):
        if is_leftover(path):
            path.unlink()


def is_leftover(path: Path) -> bool:
    """Whether a file has the name of a temporary file."""
    return re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name) is not None and path.is_file()
