"""The driver of a batch, which passes jobs to an engine until each is done or has failed."""

import os
import platform
import sys
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from dreamfusion.batch.attempt import DONE, STALE_SECONDS, USER_ERROR, HeartBeats, last_log_line
from dreamfusion.batch.engines import Ending, Engine
from dreamfusion.batch.jobs import BatchFolder, Job, JobFolder, State, read_json, write_json
from dreamfusion.batch.prompts import BatchError
from dreamfusion.utils.files import lock_file

ATTEMPTS = 3  # a job has failed after so many failed attempts, excluding preempted ones
# Exit statuses of preempted attempts: a signal, or the status of a run that stopped after a signal.
PREEMPTED = {130, 138, 143, -2, -10, -15, 75}
POLL_SECONDS = 0.2
ENDS = (State.done, State.failed, State.stopped)  # states of jobs that need no attempt


class Listener:
    """Receives progress callbacks of a batch. The base class ignores them."""

    def started(self, folder: JobFolder, number: int) -> None:
        """Called when an attempt is passed to the engine."""

    def finished(self, folder: JobFolder) -> None:
        """Called when a job is done or has failed."""

    def retried(self, folder: JobFolder, why: str) -> None:
        """Called when an attempt ended before the job was done and the job will be retried."""

    def polled(self, running: Sequence[JobFolder]) -> None:
        """Called after each poll of the engine."""


class _Running(NamedTuple):
    folder: JobFolder
    number: int
    beats: HeartBeats


@contextmanager
def driver_lock(batch_folder: BatchFolder) -> Iterator[None]:
    """Lock a batch against other drivers. Raises BatchError if another driver holds the lock, and
    on Windows, which lacks the file locks and signals that a batch uses."""
    if sys.platform == "win32":
        raise BatchError("batch needs Linux or macOS: it uses their file locks and signals")
    batch_folder.jobs_path.mkdir(parents=True, exist_ok=True)
    path = batch_folder.path / "driver.lock"
    with path.open("a+", encoding="utf-8") as lock:
        if not lock_file(lock.fileno()):
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            raise BatchError(f"another batch is running in {batch_folder.path}: {owner}")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}\n")
        lock.flush()
        yield


def prepare(batch_folder: BatchFolder, jobs: Sequence[Job]) -> list[JobFolder]:
    """Create the folders of the jobs, and return them in order."""
    for job in jobs:
        batch_folder.folder(job).write(job)
    return [batch_folder.folder(job) for job in jobs]


def drive(
    folders: Sequence[JobFolder],
    engine: Engine,
    *,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    arrived: Callable[[], Sequence[JobFolder]] = lambda: (),
    stale_seconds: float = STALE_SECONDS,
) -> bool:
    """Run all jobs, except those that are marked as stopped. Returns False if stopped.

    stop: polled; True makes every attempt write a checkpoint and exit. arrived: polled; returns
    further jobs, which may be known already. stale_seconds: a started attempt is abandoned after
    this time without a heartbeat.
    """
    listener = Listener() if listener is None else listener
    waiting: deque[JobFolder] = deque()
    running: dict[Hashable, _Running] = {}
    stopping, new = False, folders
    while new or running or (waiting and not stopping):
        known = {*waiting, *(attempt.folder for attempt in running.values())}
        waiting += [f for f in new if f not in known and f.state() not in ENDS]
        if stop() and not stopping:
            stopping = True
            engine.stop()
        while waiting and not stopping and engine.has_room():
            folder = waiting.popleft()
            if folder.stop_file.is_file():
                continue
            number = folder.newest_attempt() + 1
            ticket = engine.start(folder, number)
            running[ticket] = _Running(folder, number, HeartBeats(folder))
            listener.started(folder, number)
        ended = [(ticket, ending) for ticket, ending in engine.ended() if ticket in running]
        for ticket, attempt in running.items():
            began = attempt.folder.attempt_file(attempt.number).is_file()
            if began and attempt.beats.silent_seconds() > stale_seconds:
                engine.drop(ticket)
                ended.append((ticket, Ending(None, "no heartbeat: frozen or unreachable")))
        for ticket, ending in ended:
            attempt = running.pop(ticket)
            why = _record_end(attempt, ending, stopping)
            if why is None:
                listener.finished(attempt.folder)
            elif not (stopping or attempt.folder.stop_file.is_file()):
                waiting.append(attempt.folder)
                listener.retried(attempt.folder, why)
        listener.polled([attempt.folder for attempt in running.values()])
        if not ended:
            time.sleep(POLL_SECONDS)
        new = arrived()
    return not stopping


def _record_end(attempt: _Running, ending: Ending, stopping: bool) -> str | None:
    """Record the end of an attempt. Returns the reason for another attempt, if one is needed."""
    folder = attempt.folder
    if folder.state() in (State.done, State.failed):
        return None
    lost = ending.code is None
    why = ending.reason if lost else _cause(folder, attempt.number, ending.code)
    counts = not (lost or stopping or ending.code in PREEMPTED)
    end = read_json(folder.end_file(attempt.number))
    write_json(folder.end_file(attempt.number), end | {"code": ending.code, "counts": counts})
    if ending.code == USER_ERROR or folder.counted_failures() >= ATTEMPTS:
        write_json(folder.failed_file, {"error": why, "attempts": attempt.number})
        return None
    return why


def _cause(folder: JobFolder, number: int, code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    if code == DONE:
        return "exit status 0, but no done.json"
    return f"exit status {code}: {last_log_line(folder.log_file(number))}"
