"""One trainer a run: a lock that its process holds and that dies with it. No torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from dreamfusion.runs.folder import RunError, RunFolder
from dreamfusion.utils.errors import RunWarning
from dreamfusion.utils.file_system import no_locks


@contextmanager
def locked(run: RunFolder) -> Iterator[None]:
    """Keep other trainers out of a run's folder for the time of the block; readers may enter.

    The operating system gives the lock back when its process ends, however it ends. Raises RunError
    where another process holds it. On file systems without locks there is a warning instead.
    """
    lock = FileLock(run.lock, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise RunError(
            f"{run.path} is being trained by another process; stop that one first, or give this "
            "run another folder with --out"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and not no_locks(error):
            raise
        warnings.warn(
            RunWarning(f"{run.path} lies where files cannot be locked: start one trainer only"),
            stacklevel=2,
        )
    try:
        yield
    finally:
        lock.release()
