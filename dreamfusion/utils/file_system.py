"""Locks and links, which some file systems lack: NFS, CIFS, exFAT, and Windows drives in WSL."""

import errno
import os
import warnings
from pathlib import Path

from dreamfusion.utils.errors import RunWarning


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
