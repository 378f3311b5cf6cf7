"""Fallbacks for features that some file systems lack: locks (NFS), modes (Windows drives in WSL,
CIFS, exFAT), hard and symbolic links (FAT, CIFS)."""

import errno
import os
import shutil
import warnings
from contextlib import suppress
from pathlib import Path

from dreamfusion.utils.errors import RunWarning

# Error codes by which file systems report unsupported features.
_REFUSALS = {
    getattr(errno, name)
    for name in ("ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EINVAL", "ENOLCK", "EPERM", "EACCES", "ENOTTY")
    if hasattr(errno, name)
}
_LOCK_REFUSALS = _REFUSALS - {errno.EACCES, errno.EPERM}  # for locks: held by another process

_warned: set[str] = set()


def refused(error: OSError) -> bool:
    """Whether an operation failed because the file system does not support it."""
    return error.errno in _REFUSALS


def no_locks(error: OSError) -> bool:
    """Whether locking a file failed because its file system has no locks."""
    return error.errno in _LOCK_REFUSALS


def warn_once(text: str) -> None:
    """Emit a RunWarning at most once per process, since a run writes many files to one folder."""
    if text not in _warned:
        _warned.add(text)
        warnings.warn(RunWarning(text), stacklevel=3)


def lock_file(handle: int, *, wait: bool = False) -> bool | None:
    """Lock an open file until it is closed or the process ends.

    Returns True on success, False if another process holds the lock (never with `wait`), and None
    without support for locks: on some file systems, and on Windows.
    """
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if no_locks(error):
            return None
        if isinstance(error, (BlockingIOError, PermissionError)):
            return False
        raise
    return True


def set_mode(path: Path, mode: int) -> None:
    """Set the permissions of a file. Warns if the file system does not support them."""
    try:
        path.chmod(mode)
    except OSError as error:
        if not refused(error):
            raise
        warn_once(
            f"cannot set permissions in {path.parent.absolute()} ({error.strerror}): "
            "others may be able to read these files"
        )


def link_new(source: Path, target: Path) -> bool:
    """Create a hard link `target` to a file. Returns False if `target` exists.

    Atomic, except on file systems without hard links, where the file is copied.
    """
    try:
        os.link(source, target)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if not (refused(error) or error.errno in (errno.EMLINK, errno.EXDEV)):
            raise
    try:
        with target.open("xb") as file:
            file.write(source.read_bytes())
    except FileExistsError:
        return False
    return True


def link_or_pointer(link: Path, target: Path) -> Path:
    """Create or replace a relative symbolic link to a folder. On file systems without symbolic
    links, create a text file LINK.txt with the path. Returns the created path."""
    pointer = link.with_name(f"{link.name}.txt")
    relative = os.path.relpath(target.resolve(), link.parent.resolve())
    link.unlink(missing_ok=True)
    pointer.unlink(missing_ok=True)
    try:
        link.symlink_to(relative, target_is_directory=True)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and not refused(error):
            raise
        pointer.write_text(relative + "\n", encoding="utf-8")
        return pointer
    return link


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a folder without their permissions, which a file system may not support.
    Skips names that begin with a dot."""
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir():
            copy_files(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)


def sync(handle: int) -> None:
    """Sync an open file to disk, if the file system supports it."""
    try:
        os.fsync(handle)
    except OSError as error:
        if not refused(error):
            raise


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk if possible. Windows cannot open folders, and some file
    systems cannot sync them."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
