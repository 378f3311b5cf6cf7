"""A lock on a run, so that only one process trains it. Imports no torch."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from dreamfusion.runs.folder import RunError, RunFolder
from dreamfusion.utils.errors import RunWarning
from dreamfusion.utils.file_system import no_locks


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Lock the folder of a run against other trainers during the block. Readers are not blocked.

    The operating system releases the lock when the process ends, even if it is killed. Raises
    RunError if another process holds the lock. Warns on file systems without locks.
    """
    lock = FileLock(run.lock, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{run.path} is being trained by another process; stop that process first, or choose "
            "another folder with --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and not no_locks(error):
            raise
        warnings.warn(
            RunWarning(f"{run.path}: this file system has no file locks; start one trainer only"),
            stacklevel=2,
        )
    try:
        yield
    finally:
        lock.release()
