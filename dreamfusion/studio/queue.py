"""Runs the jobs of a batch in a thread, until it is closed."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from dreamfusion.batch.driver import ENDS, drive, driver_lock
from dreamfusion.batch.engines.local import LocalEngine
from dreamfusion.batch.jobs import BatchFolder, JobFolder
from dreamfusion.batch.links import link_models
from dreamfusion.batch.plan import request_of
from dreamfusion.utils.errors import UserError, one_line


class Queue:
    """The queue of a batch: all its jobs that are not done, failed or stopped.

    problem: why jobs cannot start on this machine; "" if they can.
    """

    def __init__(self, batch_folder: BatchFolder) -> None:
        self._batch_folder = batch_folder
        self._arrived = threading.Event()
        self._closing = threading.Event()
        self.problem = ""

    def notify(self) -> None:
        """Look for new and resumed jobs. The folder says which; call this after changing it."""
        self._arrived.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run jobs during the block. Afterwards all attempts have written a checkpoint and ended.
        Raises BatchError if another process runs the jobs of this batch."""
        with driver_lock(self._batch_folder):
            thread = threading.Thread(target=self._run)
            thread.start()
            try:
                yield
            finally:
                self._closing.set()
                self._arrived.set()
                thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._arrived.clear()
            jobs = self._batch_folder.jobs().values()
            folders = [folder for folder in jobs if folder.state() not in ENDS]
            try:
                if folders:
                    need = request_of([folder.read() for folder in folders])
                    with closing(LocalEngine(need)) as engine:
                        self.problem = ""
                        stop = self._closing.is_set
                        drive(folders, engine, stop=stop, arrived=self._newly_arrived)
                    link_models(self._batch_folder)
            except (UserError, OSError) as error:
                self.problem = one_line(error, 300)
            if not self._closing.is_set():
                self._arrived.wait(10.0 if self.problem else None)

    def _newly_arrived(self) -> Sequence[JobFolder]:
        if not self._arrived.is_set():
            return ()
        self._arrived.clear()
        return list(self._batch_folder.jobs().values())  # the driver leaves out ended ones
