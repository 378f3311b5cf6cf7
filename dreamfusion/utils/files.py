"""Writes files atomically: a file is either complete or does not exist. Locks and links files,
which some file systems do not support: NFS, CIFS, exFAT, and Windows drives in WSL."""

import errno
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dreamfusion.utils.errors import RunWarning


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
    """Remove temporary files of killed processes from a folder that no other process writes to."""
    for path in folder.glob(".*"):
        if is_leftover(path):
            path.unlink()


def is_leftover(path: Path) -> bool:
    """Whether a file has the name of a temporary file."""
    return re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name) is not None and path.is_file()


def unsupported(error: OSError) -> bool:
    """Whether locking or syncing a file failed because its file system does not support it."""
    return error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK, errno.ENOTTY)


def lock_file(handle: int) -> bool:
    """Lock an open file until it is closed or the process ends, on Linux and macOS. Returns False
    if another process holds the lock. Without support for locks, warns and returns True."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        if not unsupported(error):
            raise
        text = "this file system has no file locks: make sure that only one batch runs there"
        warnings.warn(RunWarning(text), stacklevel=2)
    return True


def make_link(link: Path, target: Path) -> Path:
    """Create or replace a relative symbolic link to a folder or file, and return it. On file
    systems without symbolic links, return the target."""
    link.unlink(missing_ok=True)
    try:
        link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))
    except (OSError, NotImplementedError):
        return target
    return link
