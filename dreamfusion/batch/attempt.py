"""One attempt at a job: runs the command line in a separate process.

An attempt locks its run against other writers and sends heartbeats. It exits at once if a newer
attempt has replaced it, and with a checkpoint if the process that started it is gone.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dreamfusion.batch.jobs import BEAT_SECONDS, Job, JobFolder, create_json, read_json, write_json
from dreamfusion.config.nested import flat
from dreamfusion.runs.folder import RunFolder
from dreamfusion.utils.errors import one_line
from dreamfusion.utils.files import lock_file
from dreamfusion.utils.launch import VARIABLES
from dreamfusion.utils.machine import peak_memory
from dreamfusion.utils.version import __version__

DONE, USER_ERROR = 0, 2
FENCED = 75  # exit status if a newer attempt has replaced this one
UNFIT = 78  # exit status if this machine has another version of dreamfusion than the driver
STALE_SECONDS = 60.0  # an attempt without a heartbeat for this time counts as frozen
MODULE = "dreamfusion.cli.attempt"  # the module that runs an attempt

Main = Callable[[Sequence[str]], int]


def start_attempt(
    folder: JobFolder, number: int, stale_seconds: float, module: str | None = None, **options: Any
) -> "subprocess.Popen[bytes]":
    """Start an attempt as a child of this process. Its standard output goes to its result file,
    standard error to its log. options: of Popen."""
    own = (str(folder.path), str(number), str(os.getpid()), str(stale_seconds), __version__)
    command = [sys.executable, "-m", module or MODULE, *own]
    log, result = folder.log_file(number), folder.result_file(number)
    log.parent.mkdir(parents=True, exist_ok=True)
    with result.open("ab") as out, log.open("ab") as err:
        streams: Any = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        return subprocess.Popen(command, **streams, **options)


def environment(threads: int) -> dict[str, str]:
    """The environment variables of an attempt: as in this process, with another number of threads
    and without a launcher's variables, since an attempt is a single process."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return kept | {"OMP_WAIT_POLICY": "PASSIVE"} | dict.fromkeys(names, str(threads))


def attempt(arguments: Sequence[str], main: Main) -> int:
    """Run an attempt and return its exit status. arguments: see `start_attempt`. main: runs the
    command line with given arguments."""
    folder, number = JobFolder(Path(arguments[0])), int(arguments[1])
    parent, stale_seconds, version = int(arguments[2]), float(arguments[3]), arguments[4]
    started = time.time()
    if version != __version__:
        _log(f"error: this machine has dreamfusion {__version__}, the batch {version}")
        return UNFIT
    about = {"host": platform.node(), "pid": os.getpid(), "started": started}
    before = folder.run.path.name  # of the newest attempt
    if not create_json(folder.attempt_file(number), about | {"run": before}):
        return FENCED
    threading.Thread(target=_watch, args=(folder, number, parent), daemon=True).start()
    with _locked_run(folder, before, number, stale_seconds) as run:
        if run.path.name != before:
            write_json(folder.attempt_file(number), about | {"run": run.path.name})
        if folder.done_file.is_file():
            return DONE
        code = _run_command_line(main, _arguments(folder.read(), folder, run))
        _write_end(folder, number, code, started, run)
    return code


def _run_command_line(main: Main, arguments: Sequence[str]) -> int:
    """Run the command line; an unexpected exception is logged with a traceback, status 1."""
    _log(f"$ dreamfusion {' '.join(arguments)}")
    try:
        return main(arguments)
    except Exception:
        traceback.print_exc()
        return 1


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def _arguments(job: Job, folder: JobFolder, run: RunFolder) -> list[str]:
    """The arguments of the command that starts or resumes the run."""
    if run.config.is_file():
        return ["resume", str(run.path), "--json"]
    # A run that was killed before it wrote its settings contains nothing of value.
    shutil.rmtree(run.path, ignore_errors=True)
    arguments = ["train", job.prompt, "--out", str(run.path), "--seed", str(job.seed), "--json"]
    if job.file is not None:
        arguments += ["--config", str(folder.settings_file)]
    elif job.preset is not None:
        arguments += ["--config", job.preset]
    for name, value in flat(job.settings or {}):
        arguments += ["--set", f"{name}={json.dumps(value)}"]
    return arguments


@contextmanager
def _locked_run(
    folder: JobFolder, name: str, number: int, stale_seconds: float
) -> Iterator[RunFolder]:
    """Lock the run for this process during the block.

    Waits while another attempt holds the lock and sends heartbeats. An attempt that holds the lock
    without heartbeats is frozen. Since it may recover at any time and write, it keeps its folder,
    and this attempt continues in a copy.
    """
    beats = HeartBeats(folder, before=number)
    with (folder.path / f"{name}.lock").open("a") as lock:
        while not (locked := lock_file(lock.fileno())):
            if beats.silent_seconds() > stale_seconds:
                break
            time.sleep(0.2)
        else:
            yield RunFolder(folder.path / name)
    if not locked:
        copied = RunFolder(folder.path / f"run-of-attempt-{number}")
        _copy_run(RunFolder(folder.path / name), copied)
        with (folder.path / f"{copied.path.name}.lock").open("a") as lock:
            lock_file(lock.fileno())
            yield copied


class HeartBeats:
    """Monitors the heartbeats of the attempts at a job, by the clock of this machine.

    before: monitor only attempts with lower numbers. Time in which this process itself was
    suspended is excluded: the interval between two calls counts as at most two heartbeats.
    """

    def __init__(self, folder: JobFolder, *, before: int | None = None) -> None:
        self._folder, self._before = folder, before
        self._seen: list[float] = []
        self._last_poll, self._silent = time.monotonic(), 0.0

    def silent_seconds(self) -> float:
        """Seconds without a heartbeat, as observed by calls of this method."""
        now = time.monotonic()
        passed, self._last_poll = min(now - self._last_poll, 2 * BEAT_SECONDS), now
        numbers = self._folder.attempts()
        watched = [n for n in numbers if self._before is None or n < self._before]
        beats = [self._folder.last_beat(n) for n in watched]
        self._silent = self._silent + passed if beats == self._seen else 0.0
        self._seen = beats
        return self._silent


def _copy_run(run: RunFolder, target: RunFolder) -> None:
    """Copy the files from which a run can resume. Checkpoints are written atomically."""
    for _ in range(3):
        shutil.rmtree(target.path, ignore_errors=True)
        with suppress(OSError):  # the frozen attempt has recovered and deleted an old checkpoint
            if run.path.is_dir():
                shutil.copytree(run.path, target.path, ignore=shutil.ignore_patterns(".*"))
            return
        time.sleep(0.5)
    shutil.rmtree(target.path, ignore_errors=True)  # restart from the beginning


def _watch(folder: JobFolder, number: int, parent: int) -> None:
    """Send heartbeats, and end this attempt if it was replaced, its parent process has ended or
    somebody stops the job."""
    beat, stopping = folder.beat_file(number), False
    while True:
        try:
            beat.touch()
            if folder.newest_attempt() > number:
                os._exit(FENCED)
        except OSError:  # a full or unreachable disk: the run will report it
            pass
        if (os.getppid() != parent or folder.stop_file.is_file()) and not stopping:
            stopping = True
            os.kill(os.getpid(), signal.SIGTERM)  # writes a checkpoint and exits
        time.sleep(BEAT_SECONDS)


def _write_end(folder: JobFolder, number: int, code: int, started: float, run: RunFolder) -> None:
    """Record the end of this attempt, and the result of the job if the job has ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    cost = {
        "seconds": round(time.time() - started, 2),
        "peak_gib": round((peak_memory() or 0) / (1 << 30), 3),
    }
    write_json(folder.end_file(number), {"code": code, "counts": False, **cost})
    if folder.newest_attempt() != number:
        return
    if code == DONE:
        ends = [read_json(folder.end_file(attempt)) for attempt in folder.attempts()]
        seconds = sum(end.get("seconds", 0.0) for end in ends)  # those of killed attempts are lost
        content = {"attempt": number, "run": run.path.name, **cost, "seconds": round(seconds, 2)}
        output = folder.result_file(number).read_text(encoding="utf-8").splitlines()
        report = dict(json.loads(output[-1])) if output else {}
        write_json(folder.done_file, content | {"report": report})
    elif code == USER_ERROR:
        error = last_log_line(folder.log_file(number))
        write_json(folder.failed_file, {"error": error, "attempts": number})


def last_log_line(log: Path) -> str:
    """The last non-empty line of a log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "no log"
    lines = [line for line in lines if line.strip()]
    return one_line(lines[-1].removeprefix("error: "), 300) if lines else "empty log"
