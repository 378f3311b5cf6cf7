"""Drives a batch: hands jobs to an engine until each is done or has failed."""

from __future__ import annotations

import os
import platform
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from dreamfusion.batch.attempt import DONE, STALE_SECONDS, USER_ERROR, HeartBeats, last_words
from dreamfusion.batch.engines import Ending, Engine
from dreamfusion.batch.jobs import BatchFolder, Job, JobFolder, State, read_json, write_json
from dreamfusion.batch.prompts import BatchError
from dreamfusion.utils.file_system import lock_file, warn_once

ATTEMPTS = 3  # that may end by a fault of their own
# Stopped by whoever owns the machine: by a signal, or by the exit status of a run that was told to.
PREEMPTED = {130, 138, 143, -2, -10, -15, 75}
LOOK_SECONDS = 0.2


class Listener:
    """Is told how a batch goes. This one keeps it to itself."""

    def started(self, folder: JobFolder, number: int) -> None:
        """An attempt was handed to the engine."""

    def finished(self, folder: JobFolder) -> None:
        """A job is done or has failed."""

    def again(self, folder: JobFolder, why: str) -> None:
        """An attempt ended before the job did; there will be another."""

    def looked(self, running: Sequence[JobFolder]) -> None:
        """A moment has passed."""


class _Running(NamedTuple):
    folder: JobFolder
    number: int
    beats: HeartBeats


@contextmanager
def driving(shelf: BatchFolder) -> Iterator[None]:
    """The right to drive a batch. Raises BatchError while another driver has it."""
    shelf.jobs_path.mkdir(parents=True, exist_ok=True)
    path = shelf.path / "driver.lock"
    with path.open("a+", encoding="utf-8") as lock:
        held = lock_file(lock.fileno())
        if held is None:
            warn_once(
                f"files in {shelf.path} cannot be locked: make sure that only one batch works there"
            )
        elif not held:
            lock.seek(0)
            who = lock.read().strip() or "another process"
            raise BatchError(f"another batch works in {shelf.path}: {who}")
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {platform.node()}\n")
        lock.flush()
        yield


def prepare(shelf: BatchFolder, jobs: Sequence[Job]) -> list[JobFolder]:
    """Write down what to make; the jobs' folders, in order."""
    folders = [shelf.folder(job) for job in jobs]
    for job, folder in zip(jobs, folders, strict=True):
        folder.write(job)
    return folders


def drive(
    folders: Sequence[JobFolder],
    engine: Engine,
    *,
    listener: Listener | None = None,
    stop: Callable[[], bool] = lambda: False,
    stale_seconds: float = STALE_SECONDS,
) -> bool:
    """Make all jobs; whether that was not stopped.

    stop: is asked all the time; then every attempt is asked to write its checkpoint and end.
    stale_seconds: an attempt that began and has no heartbeat for so long is given up.
    """
    listener = Listener() if listener is None else listener
    ends = (State.done, State.failed)
    waiting = deque(folder for folder in folders if folder.state() not in ends)
    running: dict[Hashable, _Running] = {}
    stopping = False
    while running or (waiting and not stopping):
        if stop() and not stopping:
            stopping = True
            engine.stop()
        while waiting and not stopping and engine.has_room():
            folder = waiting.popleft()
            number = folder.newest_attempt() + 1
            ticket = engine.start(folder.path, number)
            running[ticket] = _Running(folder, number, HeartBeats(folder))
            listener.started(folder, number)
        ended = [(ticket, ending) for ticket, ending in engine.ended() if ticket in running]
        for ticket, one in running.items():
            began = one.folder.attempt_file(one.number).is_file()
            if began and one.beats.silent_seconds() > stale_seconds:
                engine.drop(ticket)
                ended.append((ticket, Ending(None, "no heartbeat: frozen, or out of reach")))
        for ticket, ending in ended:
            one = running.pop(ticket)
            why = _settle(one, ending, stopping)
            if why is None:
                listener.finished(one.folder)
            elif not stopping:
                waiting.append(one.folder)
                listener.again(one.folder, why)
        listener.looked([one.folder for one in running.values()])
        if not ended:
            time.sleep(LOOK_SECONDS)
    return not stopping


def _settle(one: _Running, ending: Ending, stopping: bool) -> str | None:
    """Write down how an attempt ended; why the job needs another, or None if it does not."""
    folder = one.folder
    if folder.state() in (State.done, State.failed):
        return None
    lost = ending.code is None
    why = ending.reason if lost else _cause(folder, one.number, ending.code)
    counts = not (lost or stopping or ending.code in PREEMPTED)
    end = read_json(folder.end_file(one.number))
    write_json(folder.end_file(one.number), end | {"code": ending.code, "counts": counts})
    if ending.code == USER_ERROR or folder.counted_failures() >= ATTEMPTS:
        write_json(folder.failed_file, {"error": why, "attempts": one.number})
        return None
    return why


def _cause(folder: JobFolder, number: int, code: int | None) -> str:
    if code is not None and code < 0:
        return f"killed by signal {-code}"
    if code == DONE:
        return "it ended well but left no done.json"
    return f"exit status {code}: {last_words(folder.log_file(number))}"
